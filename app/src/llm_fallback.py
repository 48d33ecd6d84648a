"""An answer for requests that no replica can take.

On the fast path HAProxy hands such a request to Ray Serve's own proxy on the head, which keeps it until a replica
comes: a minute, or for ever. The contract says 503 within a second. Ray calls :func:`middlewares` in each of its HTTP
servers, as RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it; ``ray_node`` puts this file where the proxy finds it.

Nothing here may import more than the standard library and what Ray itself needs: it runs without the application.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Seconds. The request does reach Serve, so that a model that was scaled to zero wakes up.
_PATIENCE_S = 0.7
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
    """The middlewares of one of Serve's HTTP servers: a proxy's own, and none for a replica.

    Returns:
        ``starlette.middleware.Middleware`` objects, as Ray wants them.
    """
    import ray

    name = ray.get_runtime_context().get_actor_name() or ""
    return [Middleware(AnswerSoon)] if "SERVE_PROXY_ACTOR" in name else []
