r"""GBNF, as llama.cpp's grammar guide has it.

    root  ::= item ("," item){0,3}     # a comment
    item  ::= "\"" [^"\\\n]+ "\"" | digit+
    digit ::= [0-9]

Taken: literals, `[classes]` and `[^negated]` ones, `.` for any character, escapes `\n \r \t \\ \"
\[ \] \xHH \uHHHH \UHHHHHHHH`, groups, `|`, and `* + ? {m} {m,} {m,n} {,n}`. A rule ends
with its line but inside of a group, behind `|`, and where the next line begins with `|`. Refused by
name: left recursion (machine.py), rules that are missing or there twice, tokens (`<[1000]>`).
"""

from __future__ import annotations

import re

from monolite.inference.grammar.errors import NotEnforceable
from monolite.inference.grammar.expression import (
    ANY,
    EMPTY,
    Call,
    Characters,
    Expression,
    Grammar,
    Repeat,
    chain,
    choice,
    negated,
    normal,
    text,
)

CHARACTERS_MAX = 256 * 1024
REPEATS_MAX = 10_000
DEPTH_MAX = 100

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_BLANKS = re.compile(r"(?:[ \t]|#[^\r\n]*)+")
_BLANKS_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)+")
_NEXT_OPTION = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*\|")
_BOUNDS = re.compile(r"\{[ \t]*(\d*)[ \t]*(,?)[ \t]*(\d*)[ \t]*\}")
_SIMPLE_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]"}
_ESCAPES_MORE = {"^": "^", "-": "-", "/": "/", "'": "'"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


def parse(source: str) -> Grammar:
    """The grammar that the text is.

    Raises:
        NotEnforceable: it is no GBNF, too large, or needs what is not taken; `pointer` is a line.
    """
    if len(source) > CHARACTERS_MAX:
        raise NotEnforceable(
            "grammar", f"it has {len(source)} characters; at most {CHARACTERS_MAX} are read"
        )
    return _Parser(source).grammar()


class _Parser:
    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.called: dict[str, int] = {}

    def grammar(self) -> Grammar:
        rules: dict[str, Expression] = {}
        self.skip(lines=True)
        while self.at < len(self.source):
            name = self.name("a rule's name")
            begin = self.at
            self.skip()
            if not self.source.startswith("::=", self.at):
                raise self.bad(f"rule {name}", "`::=` has to follow its name")
            if name in rules:
                raise self.bad(f"rule {name}", "it is there twice", begin)
            self.at += 3
            self.skip(lines=True)
            rules[name] = self.options(0)
            if self.at < len(self.source) and self.source[self.at] not in "\r\n":
                raise self.bad(f"rule {name}", f"{self.source[self.at]!r} can't stand here")
            self.skip(lines=True)
        if "root" not in rules:
            raise NotEnforceable("root", "the grammar has no rule of this name")
        for name, begin in self.called.items():
            if name not in rules:
                raise self.bad(f"rule {name}", "it is used, and not there", begin)
        return Grammar(rules)

    def options(self, depth: int) -> Expression:
        if depth > DEPTH_MAX:
            raise self.bad("group", f"groups lie in each other at most {DEPTH_MAX} deep")
        found = [self.sequence(depth)]
        while True:
            following = _NEXT_OPTION.match(self.source, self.at)
            if following is None:
                return choice(*found)
            self.at = following.end()
            self.skip(lines=True)
            found.append(self.sequence(depth))

    def sequence(self, depth: int) -> Expression:
        parts: list[Expression] = []
        while self.at < len(self.source):
            part = self.part(depth)
            if part is None:
                break
            self.skip(lines=depth > 0)
            while (bounds := self.repetition()) is not None:
                part = Repeat(part, *bounds)
                self.skip(lines=depth > 0)
            parts.append(part)
        return chain(*parts) if parts else EMPTY

    def part(self, depth: int) -> Expression | None:
        character = self.source[self.at]
        if character == '"':
            return text(self.literal())
        if character == "[":
            return self.characters()
        if character == ".":
            self.at += 1
            return Characters(ANY)
        if character == "(":
            begin = self.at
            self.at += 1
            self.skip(lines=True)
            inner = self.options(depth + 1)
            self.skip(lines=True)
            if not self.source.startswith(")", self.at):
                raise self.bad("group", "its `)` is missing", begin)
            self.at += 1
            return inner
        if character in "<!":
            raise self.bad("token", "tokens (<…>) can't be asked for; characters can")
        if _NAME.match(character):
            begin = self.at
            name = self.name("a rule's name")
            self.called.setdefault(name, begin)
            return Call(name)
        if character in "*+?{":
            raise self.bad(character, "there is nothing before it to repeat")
        return None

    def repetition(self) -> tuple[int, int | None] | None:
        character = self.source[self.at : self.at + 1]
        if character in ("*", "+", "?") and character:
            self.at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[character]
        if character != "{":
            return None
        found = _BOUNDS.match(self.source, self.at)
        if found is None or not (found[1] or found[3]):
            raise self.bad("{", "bounds are {m}, {m,}, {m,n} or {,n}")
        if max(len(found[1]), len(found[3])) > 9:
            raise self.bad(found[0], f"at most {REPEATS_MAX} repetitions are counted")
        least = int(found[1] or 0)
        most = int(found[3]) if found[3] else (None if found[2] else least)
        if most is not None and most < least:
            raise self.bad(found[0], "the upper bound is below the lower one")
        if max(least, most or 0) > REPEATS_MAX:
            raise self.bad(found[0], f"at most {REPEATS_MAX} repetitions are counted")
        self.at = found.end()
        return least, most

    def literal(self) -> str:
        begin = self.at
        self.at += 1
        found: list[str] = []
        while True:
            character = self.source[self.at : self.at + 1]
            if not character or character in "\r\n":
                raise self.bad("literal", 'its closing `"` is missing', begin)
            if character == '"':
                self.at += 1
                return "".join(found)
            found.append(self.character())

    def characters(self) -> Characters:
        begin = self.at
        self.at += 1
        inverted = self.source.startswith("^", self.at)
        self.at += inverted
        ranges: list[tuple[int, int]] = []
        while not self.source.startswith("]", self.at):
            if self.at >= len(self.source):
                raise self.bad("class", "its `]` is missing", begin)
            low = ord(self.character())
            high = low
            if self.source.startswith("-", self.at) and self.source[
                self.at + 1 : self.at + 2
            ] not in (
                "]",
                "",
            ):
                self.at += 1
                high = ord(self.character())
                if high < low:
                    raise self.bad("class", f"{chr(low)!r}-{chr(high)!r} is the wrong way round")
            ranges.append((low, high))
        self.at += 1
        return Characters(negated(ranges) if inverted else normal(ranges))

    def character(self) -> str:
        character = self.source[self.at]
        self.at += 1
        if character != "\\":
            if 0xD800 <= ord(character) <= 0xDFFF:
                raise self.bad("character", "half of a surrogate pair is no character")
            return character
        escape = self.source[self.at : self.at + 1]
        self.at += 1
        simple = _SIMPLE_ESCAPES.get(escape) or _ESCAPES_MORE.get(escape)
        if simple is not None:
            return simple
        count = _HEX_DIGITS.get(escape)
        if count is None:
            raise self.bad(f"\\{escape}", "there is no such escape")
        digits = self.source[self.at : self.at + count]
        if not re.fullmatch(rf"[0-9A-Fa-f]{{{count}}}", digits):
            raise self.bad(f"\\{escape}", f"{count} hexadecimal digits have to follow")
        self.at += count
        value = int(digits, 16)
        if value > 0x10FFFF or 0xD800 <= value <= 0xDFFF:
            raise self.bad(f"\\{escape}{digits}", "there is no such character")
        return chr(value)

    def name(self, what: str) -> str:
        found = _NAME.match(self.source, self.at)
        if found is None:
            raise self.bad("grammar", f"{self.source[self.at]!r} can't stand here; {what} can")
        self.at = found.end()
        return found[0]

    def skip(self, *, lines: bool = False) -> None:
        blanks = (_BLANKS_AND_LINES if lines else _BLANKS).match(self.source, self.at)
        if blanks is not None:
            self.at = blanks.end()

    def bad(self, construct: str, why: str, at: int | None = None) -> NotEnforceable:
        line = self.source.count("\n", 0, self.at if at is None else at) + 1
        return NotEnforceable(construct, why, f"line {line}")
