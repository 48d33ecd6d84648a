"""What each of Ray Serve's HTTP servers does before anything else: the replicas', and Serve's own proxy's on the head.

No orders from clients to Serve, and one id for a request, the client's if it is sane. And an answer for requests that
no replica can take: HAProxy hands those to Serve's proxy, which keeps them until a replica comes, for a minute or for
ever; the contract says 503 within a second.

Ray calls :func:`middlewares` in each server, as RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it; ``ray_node`` puts
this file where the proxy finds it. Nothing here may import more than the standard library and what Ray itself needs.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Seconds. The request does reach Serve, so that a model that was scaled to zero wakes up.
_PATIENCE_S = 0.3
_ERROR = {
    "message": "The model is being loaded. Try again in a few seconds.",
    "type": "service_unavailable_error",
    "param": None,
    "code": "model_loading",
}
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"retry-after", b"2"),
    (b"x-llm-error-code", b"model_loading"),
]


_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")
_ID_HEADER = b"x-request-id"
# Serve obeys them, such as not to notice that a client has left, and fails where they aren't UTF-8. Source:
# ray/serve/_private/constants.py of ray 2.60.0.
_ORDERS = frozenset(
    {b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve-multiplexed-model-id", b"x-session-id"}
)


class SaneHeaders:
    """ASGI middleware: takes orders to Serve away, and replaces an id that isn't fit for logs and headers.

    Args:
        app: the application, which puts the id into its answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see the ASGI specification."""
        if scope["type"] == "http":
            headers = [(name, value) for name, value in scope["headers"] if name.replace(b"_", b"-") not in _ORDERS]
            given = [value for name, value in headers if name == _ID_HEADER]
            if len(given) != 1 or not _SANE_ID.match(given[0]):
                headers = [(name, value) for name, value in headers if name != _ID_HEADER]
                headers.append((_ID_HEADER, uuid.uuid4().hex.encode()))
            scope["headers"] = headers
        await self._app(scope, receive, send)


class AnswerSoon:
    """ASGI middleware: 503 ``model_loading`` where the application has not begun to answer within :data:`_PATIENCE_S`.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see the ASGI specification."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        begun = asyncio.Event()
        too_late = False

        async def send_if_in_time(message: Message) -> None:
            if not too_late:
                begun.set()
                await send(message)

        answer = asyncio.ensure_future(self._app(scope, receive, send_if_in_time))
        beginning = asyncio.ensure_future(begun.wait())
        try:
            await asyncio.wait({answer, beginning}, timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            if begun.is_set() or answer.done():
                await answer
                return
        finally:
            # Also when the client has left.
            beginning.cancel()
            answer.cancel()
        too_late = True
        await send({"type": "http.response.start", "status": 503, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": json.dumps({"error": _ERROR}).encode()})


def middlewares() -> list[Any]:
    """The middlewares of the HTTP server in this process.

    Returns:
        ``starlette.middleware.Middleware`` objects, innermost first, as Ray wants them.
    """
    import ray

    name = ray.get_runtime_context().get_actor_name() or ""
    proxys_own = [Middleware(AnswerSoon)] if "SERVE_PROXY_ACTOR" in name else []
    return [*proxys_own, Middleware(SaneHeaders)]
