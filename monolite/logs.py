"""Structured logs: one JSON object a line on stderr, secrets redacted wherever they turn up."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any

# A key keeps its id, which names it; a token keeps its header, which names nothing secret.
_SECRETS = (
    (re.compile(r"mk_([0-9A-Za-z]{16})_[0-9A-Za-z]+"), r"mk_\1_(redacted)"),
    (re.compile(r"mrs_[0-9a-f]{16,}"), "mrs_(redacted)"),
    (re.compile(r"(eyJ[\w-]+)\.[\w-]+\.[\w-]+"), r"\1.(redacted)"),
    (re.compile(r"(?i)(authorization|secret[-_ ]?access[-_ ]?key)(\W+)\S+"), r"\1\2(redacted)"),
)
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def redacted(text: str) -> str:
    """The text without any secret it may hold."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class JsonLines(logging.Formatter):
    """`{"time","level","logger","message",…}`, extras as members."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, Any] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update({k: v for k, v in record.__dict__.items() if k not in _OWN})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return redacted(json.dumps(entry, default=str, ensure_ascii=False, separators=(",", ":")))


def _rfc3339(created: float) -> str:
    # Not web.timestamps: logging starts first, and datetime is a part of a cold start.
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{second}.{int(created * 1000) % 1000:03d}Z"


def configure(level: int = logging.INFO) -> None:
    """Send the process's logs to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
