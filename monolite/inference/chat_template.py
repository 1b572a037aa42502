"""A model's chat template: messages to the text that it was trained on.

Templates are Jinja's, and come with the model's file: they run in an immutable sandbox, which calls
nothing and changes nothing, over values that are plain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from monolite.errors import FieldError, Invalid, Unavailable

TEMPLATE_CHARACTERS_MAX = 100_000
TEXT_CHARACTERS_MAX = 16_000_000

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content +"
    " '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% endif %}"
)
"""OpenAI's ChatML, for a model that brings no template."""


class BadTemplate(Unavailable):
    """A model's template that can't be used."""

    code = "model_unusable"


class _Refused(Exception):
    """The template itself refuses the messages."""


class ChatTemplate:
    """One model's template, compiled."""

    def __init__(self, source: str | None, *, bos_token: str, eos_token: str) -> None:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        source = CHATML if source is None else source
        if len(source) > TEMPLATE_CHARACTERS_MAX:
            raise BadTemplate(f"the model's chat template has {len(source)} characters")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals.update(raise_exception=_refuse, strftime_now=_now)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise BadTemplate(f"the model's chat template can't be read: {error}") from None
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    def close(self) -> None:
        """Nothing is held."""

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text up to where the assistant's answer begins.

        Raises:
            Invalid: the template refuses the messages (roles that must alternate, say).
            BadTemplate: it fails.
        """
        try:
            pieces: list[str] = []
            length = 0
            for piece in self._template.generate(
                messages=list(messages), add_generation_prompt=True, **self._tokens
            ):
                pieces.append(piece)
                length += len(piece)
                if length > TEXT_CHARACTERS_MAX:
                    raise BadTemplate("the model's chat template makes too much text")
            return "".join(pieces)
        except _Refused as error:
            raise Invalid(f"messages: {error}.", [FieldError("#/messages", str(error))]) from None
        except BadTemplate:
            raise
        except Exception as error:
            raise BadTemplate(f"the model's chat template failed: {error}") from None


def _refuse(message: str) -> None:
    raise _Refused(str(message)[:500])


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
