"""Messages as OpenAI's clients send them: checked once, and plain for a model that reads text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monolite.errors import FieldError, Invalid

IMAGE_TOKENS = 1600
"""What an image is reserved as."""

MESSAGE_TOKENS = 16
"""What a message takes beside its text, at most."""


def has_image(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any of them shows an image."""
    return _images(messages) > 0


def require_text(messages: Sequence[Mapping[str, Any]], why: str) -> None:
    """Raise Invalid for a message with anything but texts; `why` is the route's reason."""
    for at, message in enumerate(messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if part["type"] != "text":
                raise _bad(
                    f"#/messages/{at}/content/{place}",
                    f"a part of the type {part['type']} can't be read: the model on this machine"
                    f" takes text, and the request stays here ({why})",
                )


def require_readable(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise Invalid for a message that no model can read."""
    for at, message in enumerate(messages):
        content = message.get("content")
        if content is None and not message.get("tool_calls"):
            raise _bad(f"#/messages/{at}/content", "there is nothing in it")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            is_text = part.get("type") == "text" and isinstance(part.get("text"), str)
            if not is_text and not _is_image(part):
                raise _bad(
                    f"#/messages/{at}/content/{place}",
                    f"a part of the type {part.get('type')} can't be read: texts can, and images"
                    " where the request may go to a cloud",
                )


def plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates read it; images are left out."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": content or ""}


def tokens_bound(
    messages: Sequence[Mapping[str, Any]], counted: int | None, beside_bytes: int
) -> int:
    """What is reserved for a prompt: a fourth more than the local vocabulary counts (a third of the
    bytes where there is none), since the provider's is another; and for tools and schemas a token
    for two bytes.
    """
    if counted is None:
        texts = (str(plain(message)["content"]) for message in messages)
        counted = sum(len(text.encode()) for text in texts) // 3
    around = MESSAGE_TOKENS * (len(messages) + 1) + IMAGE_TOKENS * _images(messages)
    return counted + counted // 4 + around + beside_bytes // 2


def _images(messages: Sequence[Mapping[str, Any]]) -> int:
    return sum(
        part.get("type") == "image_url"
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )


def _is_image(part: Mapping[str, Any]) -> bool:
    image = part.get("image_url")
    return (
        part.get("type") == "image_url"
        and isinstance(image, dict)
        and isinstance(image.get("url"), str)
    )


def _bad(pointer: str, why: str) -> Invalid:
    return Invalid(f"{pointer[2:].replace('/', '.')}: {why}.", [FieldError(pointer, why)])
