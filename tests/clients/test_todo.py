"""The to-do list of the examples in a real browser: two profiles, a network that comes and goes."""

from __future__ import annotations

import base64
import functools
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.clients.node import CLIENT, Program, packages, script
from tests.clients.wire import wire
from tests.eventually import eventually
from tests.server_process import ROOT, Tenant

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def chromium() -> str:
    """A browser on the PATH; skips without."""
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip(f"no browser on the PATH: none of {', '.join(NAMES)}")


class Quiet(SimpleHTTPRequestHandler):
    """Files without a line for each."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def files() -> Iterator[tuple[str, ThreadingHTTPServer]]:
    """The repository's files on an address of their own, as any page's host would have them."""
    handler = functools.partial(Quiet, directory=str(ROOT))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", server
        server.shutdown()
        thread.join()


class Browser:
    """Both profiles, in one browser."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def __call__(self, line: str) -> Any:
        return json.loads(self._program.ask(line))

    def texts(self, name: str) -> list[str]:
        return [text for text, _ in self(f"show {name}")]


def test_two_browsers_converge(tenant: Tenant, tmp_path: Path) -> None:
    packages()
    path = chromium()
    token = tenant.token("sync:read", "sync:write", resource="sync/home")
    with (
        wire(seed=7) as network,
        files() as (origin, host),
        script(CLIENT / "test/todo-browser.mjs", CHROMIUM=path, HOME=str(tmp_path)) as program,
    ):
        network.port = tenant.server.port
        browser = Browser(program)
        address = f"{origin}/examples/todo/#server={network.url}&list=home&token={token}&key={KEY}"
        browser(f"open a {address}")
        browser(f"open b {address}")
        browser("add a milk")
        browser("add b bread")
        for name in "ab":
            eventually(lambda name=name: len(browser.texts(name)) == 2, "both see both")

        # Neither relay nor host: the page opens from its cache, and its list from IndexedDB.
        network.down()
        host.shutdown()
        host.socket.close()
        browser("add a eggs")
        browser("tick a milk")
        browser("remove b bread")
        browser("add b butter")
        browser("reload a")
        assert set(browser.texts("a")) == {"milk", "bread", "eggs"}
        assert browser("status a").startswith("offline")
        assert browser.texts("b") == ["milk", "butter"]

        network.is_up = True
        expected = [["milk", True], ["eggs", False], ["butter", False]]
        for name in "ab":
            eventually(lambda name=name: browser(f"show {name}") == expected, "both are the same")
        for name in "ab":
            eventually(lambda name=name: browser(f"status {name}") == "live", "all is sent")
    blobs = tenant.client.get("/v1/sync/home/entries?blobs=inline").json()["data"]
    assert blobs
    assert all(b"milk" not in base64.b64decode(entry["blob"]) for entry in blobs)
