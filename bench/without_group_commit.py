"""The server with one transaction for each write: what group commit is measured against.

python -m bench.without_group_commit serve --data DIR --listen HOST:PORT
"""

from __future__ import annotations

import sys
from functools import partial

from monolite import assembly_sqlite
from monolite.cli.main import main
from monolite.storage.sqlite.writer import Writer

if __name__ == "__main__":
    # The product has no such setting: nobody should run like this.
    vars(assembly_sqlite)["Writer"] = partial(Writer, group_commit=False)
    sys.exit(main(sys.argv[1:]))
