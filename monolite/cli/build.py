"""What this program is: its version, build and schema."""

from __future__ import annotations

import platform
import sys
from typing import Any

from monolite import __version__
from monolite.storage.sqlite.schema import shipped_schema


def build_facts() -> dict[str, Any]:
    """`schema_compatible_from` is the oldest program's schema version that runs on this schema."""
    schema = shipped_schema()
    kind = "executable" if getattr(sys, "frozen", False) else "checkout"
    return {
        "version": __version__,
        "build": f"{kind}, Python {platform.python_version()}, {platform.machine()}",
        "schema_version": schema.version,
        "schema_compatible_from": schema.migrations[-1].compatible_from,
    }
