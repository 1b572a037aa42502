"""The documents that the figures about documents share: orders of about 300 bytes, by number.

The same number is the same order in every contender. Region and shipping tier go through all thirty
of their pairs, so two fifteenths of a tenant's orders answer the seed's query:

    shipping_tier >= 3 and region = 'us-east'
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

COLLECTION = "orders"
REGIONS = ("us-east", "us-west", "eu-west", "eu-north", "ap-south")
TIERS_COUNT = 6
REGION, TIER_MIN = "us-east", 3
FIELDS: dict[str, dict[str, Any]] = {
    "region": {"path": "$.config.region", "type": "string"},
    "shipping_tier": {"path": "$.config.shipping_tier", "type": "integer"},
}
_CARRIERS = ("post", "courier", "freight")


def region(n: int) -> str:
    return REGIONS[n % len(REGIONS)]


def shipping_tier(n: int) -> int:
    return n % TIERS_COUNT + 1


def passes(n: int) -> bool:
    """Whether the seed's query finds it."""
    return region(n) == REGION and shipping_tier(n) >= TIER_MIN


def order(n: int) -> dict[str, Any]:
    return {
        "number": f"A-{n:08d}",
        "customer": {"name": f"Customer {n % 997}", "email": f"customer-{n % 997}@example.com"},
        "config": {
            "region": region(n),
            "shipping_tier": shipping_tier(n),
            "carrier": _CARRIERS[n % 3],
            "express": n % 4 == 0,
        },
        "items": [
            {"sku": f"SKU-{n % 1009:05d}", "quantity": n % 7 + 1, "cents": n * 37 % 20_000},
            {"sku": f"SKU-{n % 313:05d}", "quantity": 1, "cents": n * 91 % 9_000},
        ],
        "total": n * 37 % 29_000,
        "tags": [f"t{n % 13}", f"t{n % 17}"],
    }


def text(n: int) -> str:
    """The order as JSON."""
    return json.dumps(order(n), separators=(",", ":"))


def lines(begin: int, end: int) -> bytes:
    """Orders as NDJSON."""
    return "".join(text(n) + "\n" for n in range(begin, end)).encode()


def interleaved(tenants: int, each: int, block: int = 10) -> Iterator[tuple[int, int]]:
    """Tenant (from 1) and number in the order they arrive: a block of one, then of the next."""
    for begin in range(0, each, block):
        for tenant in range(1, tenants + 1):
            for n in range(begin, min(begin + block, each)):
                yield tenant, n
