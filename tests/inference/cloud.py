"""A provider that speaks Anthropic's and OpenAI's streaming protocols, with faults on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from tests.server_process import Tenant

KEY = "sk-the-providers-key"
HELLO = [{"role": "user", "content": "Say hello."}]


@dataclass
class Cloud:
    """Answers `words`; `fault` is what goes wrong: `slow`, `silent`, `cut`, `stall`, `garbage`,
    `flood`, `endless`, or a status. `tool` is a call of a tool in place of a text.
    """

    port: int = 0
    words: list[str] = field(default_factory=lambda: ["From", " the", " cloud."])
    fault: str | int | None = None
    retry_after: str | None = None
    tool: dict[str, Any] | None = None
    prompt_tokens: int = 11
    received: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    connections: int = 0
    release: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running_cloud() -> Iterator[Cloud]:
    cloud = Cloud()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            cloud.connections += 1
            super().setup()

        def do_GET(self) -> None:
            if self.headers.get("authorization") != f"Bearer {KEY}":
                self._refuse(401, "authentication_error")
                return
            content = b'{"data":[{"id":"cloud-model"}]}'
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = json.loads(self.rfile.read(length))
            headers = {name.lower(): value for name, value in self.headers.items()}
            cloud.received.append((self.path, headers, body))
            if cloud.fault == "silent":
                cloud.release.wait(20)
                self.close_connection = True
                return
            anthropic = "/v1/messages" in self.path
            if headers.get("authorization") != f"Bearer {KEY}":
                self._refuse(401, "authentication_error")
            elif isinstance(cloud.fault, int):
                self._refuse(cloud.fault, "overloaded_error")
            else:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                self._stream(anthropic, body)

        def _refuse(self, status: int, kind: str) -> None:
            error = {"type": kind, "message": "no"}
            content = json.dumps({"type": "error", "error": error}).encode()
            self.send_response(status)
            if cloud.retry_after is not None:
                self.send_header("retry-after", cloud.retry_after)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _stream(self, anthropic: bool, body: dict[str, Any]) -> None:
            events = _anthropic(cloud, body) if anthropic else _openai(cloud, body)
            try:
                for at, event in enumerate(events):
                    if cloud.fault == "cut" and at == 4:
                        self.close_connection = True
                        return
                    if cloud.fault == "stall" and at == 4:
                        cloud.release.wait(20)
                    if cloud.fault == "garbage" and at == 2:
                        event = b"data: {nothing\n\n"
                    if cloud.fault == "flood" and at == 2:
                        event = b"data: " + b"x" * (1 << 20)
                        for _ in range(16):
                            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
                    if cloud.fault == "slow":
                        time.sleep(0.05)
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    cloud.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield cloud
    finally:
        cloud.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _words(cloud: Cloud) -> Iterator[str]:
    yield from cloud.words
    while cloud.fault == "endless":
        time.sleep(0.02)
        yield " more"


def _named(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def _anthropic(cloud: Cloud, body: dict[str, Any]) -> Iterator[bytes]:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": cloud.prompt_tokens, "output_tokens": 1},
    }
    yield _named("message_start", message=message)
    choice = body.get("tool_choice") or {}
    tool = cloud.tool
    if choice.get("type") == "tool" and choice.get("name") == "answer":
        tool = {"name": "answer", "arguments": "".join(cloud.words)}
    stop = "end_turn"
    if tool is None:
        yield _named("content_block_start", index=0, content_block={"type": "text", "text": ""})
        yield _named("ping")
        for word in _words(cloud):
            delta = {"type": "text_delta", "text": word}
            yield _named("content_block_delta", index=0, delta=delta)
    else:
        stop = "tool_use"
        block = {"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": {}}
        yield _named("content_block_start", index=0, content_block=block)
        for part in _halves(tool["arguments"]):
            delta = {"type": "input_json_delta", "partial_json": part}
            yield _named("content_block_delta", index=0, delta=delta)
    yield _named("content_block_stop", index=0)
    usage = {"output_tokens": len(cloud.words)}
    yield _named("message_delta", delta={"stop_reason": stop, "stop_sequence": None}, usage=usage)
    yield _named("message_stop")


def _openai(cloud: Cloud, body: dict[str, Any]) -> Iterator[bytes]:
    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        shown = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": body["model"],
            "choices": choices,
            **more,
        }
        return b"data: " + json.dumps(shown).encode() + b"\n\n"

    def delta(finish: str | None = None, **members: Any) -> bytes:
        return chunk([{"index": 0, "delta": members, "finish_reason": finish}])

    yield delta(role="assistant", content="")
    stop = "stop"
    if cloud.tool is None:
        for word in _words(cloud):
            yield delta(content=word)
    else:
        stop = "tool_calls"
        function = {"name": cloud.tool["name"], "arguments": ""}
        begun = {"index": 0, "id": "call_1", "type": "function", "function": function}
        yield delta(tool_calls=[begun])
        for part in _halves(cloud.tool["arguments"]):
            yield delta(tool_calls=[{"index": 0, "function": {"arguments": part}}])
    yield delta(finish=stop)
    total = {"prompt_tokens": cloud.prompt_tokens, "completion_tokens": len(cloud.words)}
    yield chunk([], usage={**total, "total_tokens": sum(total.values())})
    yield b"data: [DONE]\n\n"


def _halves(text: str) -> tuple[str, str]:
    middle = len(text) // 2
    return text[:middle], text[middle:]


def cloud_settings(cloud: Cloud, provider: str = "anthropic") -> dict[str, str]:
    return {
        "MONOLITE_CLOUD_PROVIDER": provider,
        "MONOLITE_CLOUD_URL": cloud.url + ("" if provider == "anthropic" else "/v1"),
        "MONOLITE_CLOUD_MODEL": "cloud-model",
        "MONOLITE_CLOUD_KEY": KEY,
        "MONOLITE_ALLOW_PRIVATE_CLOUD": "127.0.0.1",
        "MONOLITE_CLOUD_FIRST_TOKEN_S": "1",
        "MONOLITE_CLOUD_BETWEEN_TOKENS_S": "1",
        "MONOLITE_CLOUD_PRICE_INPUT": "3",
        "MONOLITE_CLOUD_PRICE_OUTPUT": "15",
    }


def ask(client: httpx.Client, **wish: Any) -> httpx.Response:
    body = {"messages": HELLO, "max_tokens": 8, "temperature": 0, **wish}
    return client.post("/v1/chat/completions", json=body)


def public(client: httpx.Client, **wish: Any) -> httpx.Response:
    return ask(client, **{"privacy": "public", "tier": "advanced", **wish})


def route(answer: httpx.Response) -> tuple[str, str]:
    assert answer.status_code == 200, (answer.text, answer.headers)
    shown = answer.json()["monolite"]
    return shown["provider"], shown["route_reason"]


def usage(tenant: Tenant) -> dict[str, Any]:
    found: dict[str, Any] = tenant.client.get("/v1/ai/usage").json()
    return found
