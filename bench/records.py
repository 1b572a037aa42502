"""Orders as PocketBase has them: region and tier are columns, the rest of the order is JSON."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from bench import orders
from bench.servers import Server

_FIELDS = [
    {"name": "region", "type": "text"},
    {"name": "shipping_tier", "type": "number"},
    {"name": "data", "type": "json"},
]
INDEXED = ("region", "shipping_tier")


def record(n: int) -> dict[str, Any]:
    order = orders.order(n)
    config = dict(order.pop("config"))
    columns = {name: config.pop(name) for name in INDEXED}
    return {**columns, "data": order | {"config": config}}


def create_collection(
    server: Server, admin: str, name: str, *indexes: tuple[str, ...], rule: str | None = ""
) -> None:
    """A collection for orders that anyone may use, with an index on each of some columns."""
    rules = dict.fromkeys(("listRule", "viewRule", "createRule", "updateRule"), rule)
    made = {
        "name": name,
        "type": "base",
        "fields": _FIELDS,
        "indexes": [
            f"CREATE INDEX `{name}_{'_'.join(columns)}` ON `{name}` ({', '.join(columns)})"
            for columns in indexes
        ],
    }
    server.call("POST", "/api/collections", made | rules, token=admin)


def fill(data: Path, name: str, count: int) -> None:
    """Put orders 0 to `count` straight into the stopped server's file."""
    connection = apsw.Connection(str(data / "data.db"))
    try:
        with connection:
            connection.executemany(
                f"INSERT INTO {name} (id, region, shipping_tier, data) VALUES (?, ?, ?, ?)",
                _rows(count),
            )
        connection.pragma("wal_checkpoint", "TRUNCATE")
    finally:
        connection.close()


def _rows(count: int) -> Iterator[tuple[Any, ...]]:
    chance = random.Random(1)
    alphabet = string.ascii_lowercase + string.digits
    for n in range(count):
        made = record(n)
        columns = (made[name] for name in INDEXED)
        data = json.dumps(made["data"], separators=(",", ":"))
        yield "".join(chance.choices(alphabet, k=15)), *columns, data
