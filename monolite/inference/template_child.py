"""A chat template in a process of its own, for files that didn't come with the program.

A sandbox keeps a template from calling and changing things, not from filling memory or running for
ever: `{{ 'a' * 10 ** 10 }}` does while it is compiled. A child has bounds on both and is killed
beyond them; the next request begins another. It gets messages and gives text, a JSON line each.
"""

from __future__ import annotations

import json
import os
import resource as limits
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from monolite.bundle import is_frozen
from monolite.errors import FieldError, Invalid
from monolite.inference.chat_template import TEXT_CHARACTERS_MAX, BadTemplate, ChatTemplate

COMMAND = "_template"
"""What the executable is called with to be such a child."""

TIME_S = 5.0
START_S = 20.0
MEMORY_BYTES = 512 << 20
ANSWER_BYTES_MAX = 6 * TEXT_CHARACTERS_MAX


class TemplateChild:
    """One model's template, as ChatTemplate; each render takes `time_s` at most."""

    def __init__(
        self, source: str | None, *, bos_token: str, eos_token: str, time_s: float = TIME_S
    ) -> None:
        self._template = {"source": source, "bos_token": bos_token, "eos_token": eos_token}
        self._time_s = time_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The text up to where the assistant's answer begins.

        Raises:
            Invalid: the template refuses the messages.
            BadTemplate: it fails, takes too long, or too much memory.
        """
        with self._lock:
            answer = self._asked({"messages": list(messages)}, self._time_s)
        if "invalid" in answer:
            why = answer["invalid"]
            raise Invalid(f"messages: {why}.", [FieldError("#/messages", why)])
        if "text" not in answer:
            raise BadTemplate(answer.get("bad", "the model's chat template failed"))
        text: str = answer["text"]
        return text

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _asked(self, request: Mapping[str, Any], time_s: float) -> dict[str, Any]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = _started()
            self._told(self._template, START_S)
        return self._told(request, time_s)

    def _told(self, request: Mapping[str, Any], time_s: float) -> dict[str, Any]:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = _line(child.stdout, time_s)
        except TimeoutError:
            self._end()
            raise BadTemplate(f"the model's chat template takes over {time_s:g} s") from None
        except (OSError, EOFError):
            self._end()
            raise BadTemplate("the model's chat template takes too much memory") from None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


def _started() -> subprocess.Popen[bytes]:
    call = [sys.executable, COMMAND] if is_frozen() else [sys.executable, "-m", __name__]
    environment = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.Popen(  # ourselves
        call,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _line(stream: IO[bytes], time_s: float) -> bytes:
    """A line, without what follows. Raises TimeoutError and EOFError."""
    until_s, length = time.monotonic() + time_s, 0
    pieces: list[bytes] = []
    while not (pieces and pieces[-1].endswith(b"\n")):
        left_s = until_s - time.monotonic()
        if left_s <= 0 or not select.select([stream], [], [], left_s)[0]:
            raise TimeoutError
        piece = os.read(stream.fileno(), 1 << 20)
        length += len(piece)
        if not piece or length > ANSWER_BYTES_MAX:
            raise EOFError
        pieces.append(piece)
    return b"".join(pieces)


# ── In the child ───────────────────────────────────────────────────────────────────────────────


def serve(stream: IO[bytes], out: IO[bytes]) -> int:
    """Answer requests, the template first, until there are no more."""
    limits.setrlimit(limits.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    limits.setrlimit(limits.RLIMIT_CORE, (0, 0))
    template: ChatTemplate | None = None
    for line in stream:
        _bound_time()
        request = json.loads(line)
        try:
            if template is None:
                template = ChatTemplate(
                    request["source"],
                    bos_token=request["bos_token"],
                    eos_token=request["eos_token"],
                )
                answer = {"text": ""}
            else:
                answer = {"text": template.render(request["messages"])}
        except Invalid as error:
            answer = {"invalid": error.errors[0].detail}
        except BadTemplate as error:
            answer = {"bad": str(error)}
            if template is None:
                template = _Broken(str(error))
        out.write(json.dumps(answer).encode() + b"\n")
        out.flush()
    return 0


class _Broken(ChatTemplate):
    """A template that can't be read: every render says so."""

    def __init__(self, why: str) -> None:
        self._why = why

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        raise BadTemplate(self._why)


def _bound_time() -> None:
    """End by a signal, should nobody be there any more to end this."""
    used = limits.getrusage(limits.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + 2 * START_S)
    limits.setrlimit(limits.RLIMIT_CPU, (seconds, limits.getrlimit(limits.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    sys.exit(serve(sys.stdin.buffer, sys.stdout.buffer))
