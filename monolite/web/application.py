"""The ASGI application: hot operations by a dictionary, everything else by Starlette's router.

Starlette is imported when the first request needs it: it costs 70 ms of a cold start, and neither
/healthz nor a point read wants it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from monolite.errors import MethodNotAllowed, NotFound
from monolite.web import errors
from monolite.web.call import Receive
from monolite.web.endpoint import NOSNIFF, Endpoint, Pipeline, Send, request_id_of
from monolite.web.operation import Operation

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]


class Application:
    """All operations of one server, routed.

    Over an engine that waits for a network nothing may run outside a task: `starts_at_once` is
    False there, and `hot` finds nothing.
    """

    def __init__(
        self, operations: Sequence[Operation], pipeline: Pipeline, *, starts_at_once: bool = True
    ) -> None:
        self.endpoints = [Endpoint(operation, pipeline) for operation in operations]
        self._hot = HotRoutes(e for e in self.endpoints if e.operation.hot)
        self._sockets = HotRoutes(e for e in self.endpoints if e.operation.socket is not None)
        self._socket_endpoints: dict[Endpoint, AsgiApp] = {}
        self._starts_at_once = starts_at_once
        self._starlette: AsgiApp | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one HTTP request or WebSocket."""
        if scope["type"] == "websocket":
            await self._socket(scope)(scope, receive, send)
            return
        endpoint = self._hot.find(scope)
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        if self._starlette is None:
            self._starlette = self._routed()
        await self._starlette(scope, receive, send)

    def hot(self, scope: dict[str, Any]) -> Endpoint | None:
        """The hot endpoint of a request that may be started before it has a task, its path
        parameters put into the scope; else None.
        """
        if not self._starts_at_once or scope["type"] == "websocket":
            return None
        return self._hot.find(scope)

    def prepare(self) -> None:
        """Build the router ahead of the first request that needs it."""
        if self._starlette is None:
            self._starlette = self._routed()

    def _socket(self, scope: dict[str, Any]) -> AsgiApp:
        from monolite.web.sockets import SocketEndpoint, refuse_unrouted

        endpoint = self._sockets.find(scope)
        if endpoint is None:
            return refuse_unrouted
        if endpoint not in self._socket_endpoints:
            self._socket_endpoints[endpoint] = SocketEndpoint(endpoint)
        return self._socket_endpoints[endpoint]

    def _routed(self) -> AsgiApp:
        from starlette.routing import Route, Router

        by_path: dict[str, dict[str, Endpoint]] = {}
        for endpoint in self.endpoints:
            by_path.setdefault(endpoint.operation.path, {})[endpoint.operation.method] = endpoint
        # Literal segments win over parameters, whatever order the subsystems were listed in.
        ordered = sorted(by_path, key=lambda path: [part[:1] == "{" for part in path.split("/")])
        routes = [Route(path, endpoint=_Methods(by_path[path])) for path in ordered]
        return Router(routes, redirect_slashes=False, default=_not_found)


class HotRoutes:
    """Finds a hot endpoint by method, segment count and literal segments; regexes cost more."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._table: dict[tuple[str, int], list[tuple[Endpoint, _Shape]]] = {}
        for endpoint in endpoints:
            parts = endpoint.operation.path.split("/")
            literals = tuple((i, p) for i, p in enumerate(parts) if p and p[0] != "{")
            holes = tuple((i, p[1:-1]) for i, p in enumerate(parts) if p.startswith("{"))
            key = (endpoint.operation.method, len(parts))
            self._table.setdefault(key, []).append((endpoint, (literals, holes)))

    def find(self, scope: dict[str, Any]) -> Endpoint | None:
        """The endpoint, with `path_params` set in the scope. A WebSocket's handshake is a GET."""
        parts = scope["path"].split("/")
        method = scope.get("method", "GET")
        for endpoint, (literals, holes) in self._table.get((method, len(parts)), ()):
            for index, literal in literals:
                if parts[index] != literal:
                    break
            else:
                scope["path_params"] = {name: parts[index] for index, name in holes}
                return endpoint
        return None


_Shape = tuple[tuple[tuple[int, str], ...], tuple[tuple[int, str], ...]]


class _Methods:
    """The operations of one path by method; HEAD is answered as GET without its body."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = dict(endpoints)
        if "GET" in endpoints:
            self._endpoints["HEAD"] = endpoints["GET"]

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
        else:
            shape = next(iter(self._endpoints.values())).operation.errors
            await _refuse(MethodNotAllowed(sorted(self._endpoints)), scope, send, shape)


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    await _refuse(NotFound("There is no such address; /openapi.json lists them all."), scope, send)


async def _refuse(
    error: Exception,
    scope: dict[str, Any],
    send: Send,
    shape: Literal["problem", "openai"] = "problem",
) -> None:
    request_id = request_id_of(dict(scope["headers"]))
    answer = errors.answer(
        error, instance=scope["path"], request_id=request_id.decode(), shape=shape
    )
    headers = [*answer.headers, (b"x-request-id", request_id), NOSNIFF]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body})
