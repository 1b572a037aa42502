"""Monolite's command line: what `python server.py` and the executable run."""

from __future__ import annotations

import sys

from monolite.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
