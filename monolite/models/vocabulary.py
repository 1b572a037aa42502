"""A GGUF's own vocabulary as a tokenizer: byte-level BPE, as GPT-2 began it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monolite.models.gguf import BadGguf, Gguf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""GGUF's token types."""

SIZE_MAX = 1 << 20
_END_NAMES = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "</s>")

# How texts are cut before merges, by the name that GGUF has for it. `gpt-2` is GPT-2's own pattern.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
}
_GPT2 = ("gpt-2", "gpt2", "default")
_GPT2_WITH_DIGITS = ("smollm", "starcoder", "refact", "command-r", "exaone")


class GgufVocabulary:
    """Texts to token ids and back; see decoder.Vocabulary."""

    def __init__(self, gguf: Gguf) -> None:
        from tokenizers import AddedToken, Tokenizer, decoders, models

        kind = gguf.get("tokenizer.ggml.model", str)
        if kind != "gpt2":
            raise _bad(gguf, f"its tokenizer is {kind}; byte-level BPE (gpt2) is what is read")
        tokens: list[str] = gguf.get("tokenizer.ggml.tokens", list)
        if not 0 < len(tokens) <= SIZE_MAX or not all(isinstance(one, str) for one in tokens):
            raise _bad(gguf, f"its vocabulary has {len(tokens)} tokens")
        types: Sequence[int] = gguf.get("tokenizer.ggml.token_type", list, [NORMAL] * len(tokens))
        if len(types) != len(tokens):
            raise _bad(gguf, "its tokens and their types don't match")
        merges = [tuple(one.split(" ", 1)) for one in gguf.get("tokenizer.ggml.merges", list)]
        numbers = {text: number for number, text in enumerate(tokens)}
        try:
            model = models.BPE(numbers, merges, ignore_merges=False)
        except Exception as error:
            raise _bad(gguf, f"its merges don't fit its tokens: {error}") from None
        self._tokenizer = Tokenizer(model)
        self._tokenizer.pre_tokenizer = _cutter(gguf)
        self._tokenizer.decoder = decoders.ByteLevel()
        marked = {CONTROL: True, USER_DEFINED: False}
        self._tokenizer.add_tokens(
            [
                AddedToken(text, special=marked[kind], normalized=False)
                for text, kind in zip(tokens, types, strict=True)
                if kind in marked and text
            ]
        )
        self.size = len(tokens)
        self.special = frozenset(n for n, kind in enumerate(types) if kind == CONTROL)
        self._bytes = _bytes_of(tokens, types)
        bos, eos = (self._special(gguf, name, tokens) for name in ("bos", "eos"))
        self.bos_token = "" if bos is None else tokens[bos]
        self.eos_token = "" if eos is None else tokens[eos]
        ending = {number for name in _END_NAMES if (number := numbers.get(name)) in self.special}
        self.ending: frozenset[int] = frozenset([*ending, *([] if eos is None else [eos])])
        self.chat_template: str | None = gguf.get(
            "tokenizer.chat_template", (str, type(None)), None
        )

    def encode(self, text: str) -> list[int]:
        """The text's tokens; names of special tokens in it are those tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to the text; nothing for a special one."""
        return self._bytes[token]

    @staticmethod
    def _special(gguf: Gguf, name: str, tokens: Sequence[str]) -> int | None:
        number = gguf.get(f"tokenizer.ggml.{name}_token_id", (int, type(None)), None)
        if number is not None and not 0 <= number < len(tokens):
            raise _bad(gguf, f"its {name} token is {number} of {len(tokens)}")
        return number  # type: ignore[no-any-return]


def _cutter(gguf: Gguf) -> Any:
    from tokenizers import Regex, pre_tokenizers

    name = gguf.get("tokenizer.ggml.pre", str, "default")
    if name in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in _GPT2_WITH_DIGITS:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if name not in _PATTERNS:
        raise _bad(gguf, f"its texts are cut by {name}, which this program doesn't know")
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERNS[name]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _bytes_of(tokens: Sequence[str], types: Sequence[int]) -> list[bytes]:
    """What each token stands for. Byte-level BPE writes a byte as a character of its own."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain}
    byte_of.update({chr(256 + at): byte for at, byte in enumerate(others)})
    found = []
    for text, kind in zip(tokens, types, strict=True):
        if kind == CONTROL:
            found.append(b"")
        elif kind == USER_DEFINED or any(character not in byte_of for character in text):
            found.append(text.encode())
        else:
            found.append(bytes(byte_of[character] for character in text))
    return found


def _bad(gguf: Gguf, why: str) -> BadGguf:
    return BadGguf(f"{gguf.path} can't be used: {why}. Remove it, and add another")
