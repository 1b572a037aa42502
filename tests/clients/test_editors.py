"""Yjs, pycrdt, Automerge and Loro over the relay: the examples, while network and server fail."""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path

import pytest

from tests.clients.node import Program, node, packages
from tests.clients.wire import Wire, wire
from tests.eventually import eventually
from tests.server_process import ROOT, ServerProcess, Tenant

EDITORS = ROOT / "examples/editors"

Command = tuple[str, ...]

FAMILIES: dict[str, list[Command]] = {
    # One format, two languages.
    "yjs-and-pycrdt": [("yjs.mjs", "websocket"), ("pycrdt_editor.py",), ("yjs.mjs", "sse")],
    "automerge": [
        ("automerge.mjs", "websocket"),
        ("automerge.mjs", "sse"),
        ("automerge.mjs", "long-poll"),
    ],
    "loro": [("loro_editor.py",)] * 3,
}


class Editor:
    """An editor in a process of its own, and what it keeps in its folder."""

    def __init__(self, command: Command, folder: Path, wire: Wire, key: str) -> None:
        self._command = command
        self._folder = folder
        self._variables = {"URL": wire.url, "KEY": key}
        self.program = self._start()

    def _start(self) -> Program:
        script, *more = self._command
        runner = str(node()) if script.endswith(".mjs") else sys.executable
        arguments = [runner, EDITORS / script, "doc", self._folder, *more]
        return Program(arguments, **self._variables)

    def __call__(self, line: str) -> str:
        return self.program.ask(line)

    def show(self) -> list[str]:
        lines: list[str] = json.loads(self("show"))
        return lines

    def kill_and_start(self) -> None:
        self.program.kill()
        self.program.__exit__()
        self.program = self._start()


class Edits:
    """Edits by chance, and what must be there in the end."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._count = 0
        self.added: set[str] = set()
        self.removed: set[str] = set()

    def make(self, editors: list[Editor], count: int) -> None:
        for _ in range(count):
            editor = self._random.choice(editors)
            lines = editor.show()
            if lines and self._random.random() < 0.3:
                text = self._random.choice(lines)
                self.removed.add(text)
                editor(f"remove {text}")
            else:
                text = f"line {self._count} ü"
                self._count += 1
                self.added.add(text)
                editor(f"add {self._random.randint(0, len(lines))} {text}")


@pytest.mark.parametrize("family", FAMILIES)
def test_editors_come_to_the_same_document(family: str, tmp_path: Path) -> None:
    modules = EDITORS.parent / "node_modules"
    if family != "loro" and not modules.exists():
        modules.symlink_to(packages())
    data = tmp_path / "data"
    server = ServerProcess(data, {})
    editors: list[Editor] = []
    edits = Edits(seed=7)
    with wire(seed=7) as network:
        try:
            server.wait_ready()
            network.port = server.port
            with Tenant(server) as tenant:
                key = tenant.key

            def begin(command: Command) -> None:
                folder = tmp_path / f"editor-{len(editors)}"
                editors.append(Editor(command, folder, network, key))

            for command in FAMILIES[family]:
                begin(command)
            edits.make(editors, 15)
            for editor in editors:
                editor("settle")

            network.down()
            edits.make(editors, 30)

            # Drops, and with them resends of what was committed and not answered.
            network.is_up = True
            network.breaks_after = 3000
            edits.make(editors, 20)
            editors[0].kill_and_start()
            for editor in editors:
                editor("settle")
            edits.make(editors, 10)
            editors[1]("compact")
            server.stop(signal.SIGKILL)
            edits.make(editors, 10)

            server = ServerProcess(data, {})
            server.wait_ready()
            network.port = server.port
            network.breaks_after = None
            network.cut()
            for editor in editors:
                editor("settle")
            editors[0]("compact")
            edits.make(editors, 10)
            begin(FAMILIES[family][-1])

            def is_equal() -> bool:
                for editor in editors:
                    editor("settle")
                shown = [editor.show() for editor in editors]
                return all(lines == shown[0] for lines in shown)

            eventually(is_equal, "all show the same")
            lines = editors[-1].show()
            assert len(lines) == len(set(lines))
            assert set(lines) == edits.added - edits.removed
            assert network.broken_count > 0
        finally:
            for editor in editors:
                editor.program.__exit__()
            server.stop()
