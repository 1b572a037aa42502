"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path


def free_bytes(root: Path = Path("/")) -> int | None:
    """What the machine has available and every cgroup above this process still allows, files in
    memory counted as free; None where the kernel doesn't say.
    """
    left = []
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            left.append(int(value.split()[0]) << 10)
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, own = (*line.split(":", 2), "", "")[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        names = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes")
            if controllers
            else ("memory.max", "memory.current")
        )
        place = mounted / own.strip("/")
        while place == mounted or mounted in place.parents:
            limit, used = (_text(place / name).strip() for name in names)
            if limit.isdecimal() and used.isdecimal():
                left.append(int(limit) - int(used) + _files(place))
            place = place.parent
    return max(0, min(left)) if left else None


def _files(place: Path) -> int:
    """Bytes of a cgroup that the kernel can take back: pages of files."""
    for line in _text(place / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdecimal():
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
