"""How long an upgrade by deploy.sh is felt: run with `python -m tests.deploy.measure_downtime`.

A client asks /healthz on a new connection every 2 ms while deploy.sh replaces one release of
dist/monolite by another on a machine of its own, with a real systemd. Downtime is the time from
the first request that failed to the first answer after the last one that did. Prints the median
and the worst.
"""

from __future__ import annotations

import http.client
import shlex
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.deploy.conftest import CHECKOUT, Host, empty_host, executable

PERIOD_S = 0.002


def poll(port: int, stop: threading.Event, seen: list[tuple[float, float, bool]]) -> None:
    """(asked at, answered at, whether with 200) of every request until `stop`."""
    while not stop.is_set():
        asked = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            good = connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            good = False
        finally:
            connection.close()
        answered = time.perf_counter()
        seen.append((asked, answered, good))
        time.sleep(max(0.0, PERIOD_S - (answered - asked)))


def downtime_s(seen: list[tuple[float, float, bool]]) -> float:
    """From the first failed request to the first answer after the last failed one."""
    failed = [number for number, (_, _, good) in enumerate(seen) if not good]
    if not failed:
        return 0.0
    return seen[failed[-1] + 1][1] - seen[failed[0]][0]


def upgrade(host: Host, binary: Path) -> float:
    """One upgrade; returns its downtime in seconds."""
    stop, seen = threading.Event(), list[tuple[float, float, bool]]()
    client = threading.Thread(target=poll, args=(host.port, stop, seen))
    client.start()
    done = host.deploy("--binary", str(binary))
    time.sleep(0.2)
    stop.set()
    client.join()
    if done.returncode:
        raise SystemExit(done.stderr)
    return downtime_s(seen)


def main(count: int) -> None:
    """`count` upgrades after a first install."""
    program = shlex.quote(str(CHECKOUT / "dist" / "monolite"))
    with tempfile.TemporaryDirectory() as scratch, empty_host(Path(scratch) / "bin") as host:
        measured = []
        for number in range(count + 1):
            binary = executable(
                Path(scratch) / f"release-{number}",
                f'#!/bin/sh\n# release {number}\nexec {program} "$@"\n',
            )
            if number == 0:
                done = host.deploy("--binary", str(binary))
                if done.returncode:
                    raise SystemExit(done.stderr)
            else:
                measured.append(upgrade(host, binary) * 1000)
    print(
        f"{count} upgrades: downtime median {statistics.median(measured):.0f} ms, "
        f"worst {max(measured):.0f} ms"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
