"""What routing adds: to a local answer, to a cloud's first token, and when the provider is dead.

The provider is a server on loopback that answers at once, in OpenAI's protocol, so that what is
measured is ours. It and its caller are Python, on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench import options, servers
from bench.rounds import Figure, in_turn, report
from monolite.inference.chat import Ask
from monolite.inference.request import Sampling
from monolite.inference.routing.answering import CloudAnswers
from monolite.inference.routing.budget import Limits
from monolite.inference.routing.calling import Cloud, Patience
from monolite.inference.routing.ledger import Asker, Ceiling, Ledger
from monolite.inference.routing.provider import CloudModel
from monolite.inference.routing.router import RoutedWish, Router
from monolite.inference.routing.sqlite import SqliteBudgetEngine
from monolite.storage.sqlite.connection import open_reader, open_writer
from monolite.storage.sqlite.migrate import create_database
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.schema import shipped_schema
from monolite.storage.sqlite.writer import Writer
from tests.inference.cloud import KEY, running_cloud

FIRST_TOKEN_S = 0.5
CALLS = 20_000
MS = " ms"
_TEXT = re.compile(rb'"content": ?"[^"]')


def main() -> int:
    parser = options.parser(__doc__ or "", "routing", rounds=5, seconds=None)
    parser.add_argument(
        "--calls", type=int, default=60, help="first tokens, each run (%(default)s)"
    )
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    decided = [asyncio.run(decisions(folder / f"{at}.db")) for at in range(chosen.rounds)]
    with running_cloud() as cloud, serving(folder / "with", cloud.url) as (server, key):
        idle_mb = server.pss_mb()
        direct = partial(first_tokens, cloud.port, KEY, chosen.calls)
        routed = partial(
            first_tokens, server.port, key, chosen.calls, privacy="public", tier="advanced"
        )
        local = partial(first_tokens, server.port, key, chosen.calls, privacy="private")
        local()  # the model is read
        firsts = in_turn({"direct": direct, "routed": routed, "local": local}, chosen.rounds)
        cloud.fault = "silent"
        dead = first_tokens(server.port, key, 1, privacy="public", tier="advanced")
        opened = in_turn({"local": local, "open": routed}, chosen.rounds)
        cloud.release.set()
    with serving(folder / "without", None) as (server, _):
        bare_mb = server.pss_mb()
    added = [
        at(through, 0.5) - at(straight, 0.5)
        for through, straight in zip(firsts["routed"], firsts["direct"], strict=True)
    ]
    waited = [
        at(through, 0.5) - at(here, 0.5)
        for through, here in zip(opened["open"], opened["local"], strict=True)
    ]
    for name, rounds in {**firsts, "circuit open": opened["open"]}.items():
        shown = ", ".join(f"{at(one, 0.5):.1f}/{at(one, 0.99):.1f}" for one in rounds)
        print(f"first token, {name}, p50/p99 in ms: {shown}")
    print(f"memory when idle: {idle_mb:.1f} MB with a provider, {bare_mb:.1f} MB without")
    behind = dead[0] - FIRST_TOKEN_S * 1000
    work = "the router's work for a local answer"
    return report(
        [
            Figure(f"{work}, p50", [at(one, 0.5) * 1000 for one in decided], unit=" µs"),
            Figure(
                f"{work}, p99", [at(one, 0.99) * 1000 for one in decided], at_most=200, unit=" µs"
            ),
            Figure("first token by the router, behind a direct call's", added, at_most=5, unit=MS),
            Figure("local, behind a dead provider's time-out", [behind], at_most=100, unit=MS),
            Figure("the circuit open, behind a local answer's", waited, at_most=10, unit=MS),
        ]
    )


def at(values: list[float], share: float) -> float:
    """A quantile."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def serving(data: Path, url: str | None) -> Iterator[tuple[servers.Server, str]]:
    """A server, with a provider where a URL is given, and a tenant's key."""
    cloud = {
        "MONOLITE_CLOUD_PROVIDER": "openai",
        "MONOLITE_CLOUD_URL": f"{url}/v1",
        "MONOLITE_CLOUD_MODEL": "cloud-model",
        "MONOLITE_CLOUD_KEY": KEY,
        "MONOLITE_ALLOW_PRIVATE_CLOUD": "127.0.0.1",
        "MONOLITE_CLOUD_FIRST_TOKEN_S": str(FIRST_TOKEN_S),
        "MONOLITE_CLOUD_TENANT_DAILY_TOKENS": "1000000000",
        "MONOLITE_CLOUD_DAILY_TOKENS": "1000000000",
    }
    server = servers.start_monolite(data, **(cloud if url else {}))
    try:
        operator = servers.operator_key(data)
        made = server.call("POST", "/v1/tenants", {"name": "bench"}, token=operator)
        yield server, made["key"]
    finally:
        server.stop()


def first_tokens(port: int, key: str, count: int, **wish: str) -> list[float]:
    """Milliseconds from a request to the first text of its answer, one after the other."""
    content = {"messages": [{"role": "user", "content": "Say hello."}], "stream": True}
    body = json.dumps({"model": "default", "max_tokens": 4, **content, **wish})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    found = []
    for _ in range(count):
        started = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        while b'"content":"' not in answer.readline().replace(b": ", b":").replace(
            b'"content":""', b""
        ):
            pass
        found.append((time.perf_counter() - started) * 1000)
        answer.read()
    connection.close()
    return found


class Clock:
    """The system's."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class Instant:
    """A Chat that has read and answered before it is asked."""

    class models:
        @staticmethod
        def tier(name: str) -> str:
            return "basic"

    class read_:
        tokens = (1,) * 40
        model = "m"
        is_queue_full = False

    async def read(self, model: str, messages: Any) -> Any:
        return self.read_

    async def answer(self, tenant_id: int, read: Any, ask: Any) -> Any:
        return "m", (), None


async def decisions(path: Path) -> list[float]:
    """Milliseconds of the router's own work for public requests that stay."""
    create_database(path, schema=shipped_schema(), now_ms=1)
    loop = asyncio.get_running_loop()
    writer = Writer(
        lambda: open_writer(path, synchronous="normal", autocheckpoint=True),
        loop=loop,
        commit_on_loop=True,
    )
    writer.start()
    readers = Readers(lambda: open_reader(path), loop=loop)
    engine = SqliteBudgetEngine(writer, readers)
    await engine.put_policy(1, '{"cloud":{"classes":{"help":"public"}}}', 1)
    clock: Any = Clock()
    none: Any = None
    ceiling = Ceiling(Limits(10**6, None), Limits(10**7, None))
    ledger = Ledger(engine, ceiling, clock, none, b"k" * 32, none)
    model = CloudModel("openai", "https://api.openai.com/v1", "m", KEY)
    cloud = Cloud(model, none, Patience(1, 1), time.monotonic)
    chat: Any = Instant()
    router = Router(chat, ledger, CloudAnswers(cloud, ledger, none), lambda: 1.0)
    asker = Asker(1, "k", None, True, None, None)
    ask = Ask(Sampling(), 8, (), 1, None, "int8")
    wish = RoutedWish("default", [{"role": "user", "content": "Say hello."}], ask, privacy="help")
    found = []
    for _ in range(CALLS):
        started = time.perf_counter()
        answers = await router.chat(asker, wish)
        found.append((time.perf_counter() - started) * 1000)
        assert answers.reason == "within_local"
        if random.random() < 0.01:
            await asyncio.sleep(0)
    await writer.close()
    await readers.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
