"""HTTP to the model applications, through the Serve proxy of the gateway's own node."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
from fastapi.responses import Response, StreamingResponse

from llm_gateway._errors import error_event, error_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from llm_gateway.config import Route

# Seconds. A model that doesn't say within this time that it is well counts as not answering: while it loads, the
# question hangs.
_PROBE_TIMEOUT_S = 1.0
# Seconds that an answer about a model's health is good for.
_PROBE_TTL_S = 1.0
_CONNECT_TIMEOUT_S = 2.0

_FORWARDED_REQUEST_HEADERS = ("accept", "authorization", "content-type", "x-request-id")
_FORWARDED_RESPONSE_HEADERS = ("content-type", "x-request-id", "retry-after")

_UNAVAILABLE = "The model can't answer right now. Try again in a few seconds."


class Upstream:
    """The models behind one Serve proxy.

    Args:
        base_url: of the Serve proxy, such as ``http://127.0.0.1:18000``.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._session: aiohttp.ClientSession | None = None
        self._probes: dict[str, tuple[float, asyncio.Task[bool]]] = {}

    @property
    def _http(self) -> aiohttp.ClientSession:
        # Made at the first request: aiohttp wants the event loop that it will run in.
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S)
            self._session = aiohttp.ClientSession(
                timeout=timeout, connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def answers(self, route: Route) -> bool:
        """Whether the model's engine says, now or within the last second, that it is well."""
        at, task = self._probes.get(route.slug, (0.0, None))
        now = time.monotonic()
        if task is None or (task.done() and now - at > _PROBE_TTL_S):
            at, task = now, asyncio.create_task(self._probe(route))
            self._probes[route.slug] = (at, task)
        return await asyncio.shield(task)

    async def _probe(self, route: Route) -> bool:
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
        try:
            async with self._http.get(f"{self._base_url}/m/{route.slug}/health", timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def forward(
        self, route: Route, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        """Send a request to a model and pass its answer on as it comes.

        Args:
            route: the model.
            method: the HTTP method.
            path: the path under the model's prefix, such as ``/v1/chat/completions``.
            query: the query string, without the question mark.
            headers: the client's headers; only the ones that the engine needs are sent on.
            body: the client's body, untouched.
        """
        sent = {name: headers[name] for name in _FORWARDED_REQUEST_HEADERS if name in headers}
        url = f"{self._base_url}/m/{route.slug}{path}" + (f"?{query}" if query else "")
        try:
            upstream = await self._http.request(method, url, data=body, headers=sent)
        except (aiohttp.ClientError, TimeoutError):
            return error_response(503, _UNAVAILABLE, "service_unavailable")
        kind = upstream.headers.get("content-type", "")
        if upstream.status >= 500 and "json" not in kind:
            # HAProxy and Serve say what they can't do in plain text.
            upstream.release()
            return error_response(503, _UNAVAILABLE, "service_unavailable")
        received = {name: upstream.headers[name] for name in _FORWARDED_RESPONSE_HEADERS if name in upstream.headers}
        return StreamingResponse(_pass_on(upstream, "event-stream" in kind), upstream.status, received)


async def _pass_on(upstream: aiohttp.ClientResponse, is_stream: bool) -> AsyncIterator[bytes]:
    try:
        async for chunk in upstream.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError):
        if not is_stream:
            raise
        yield error_event(
            503, "The model stopped in the middle of its answer. Send the request again.", "service_unavailable"
        )
    finally:
        # Also when the client has left: closing the connection is what makes the engine stop.
        upstream.close()
