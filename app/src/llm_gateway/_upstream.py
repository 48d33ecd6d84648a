"""HTTP to the model applications, through the Serve proxy of the gateway's own node."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
from fastapi.responses import StreamingResponse

from llm_gateway import _errors
from llm_gateway._errors import CODE_HEADER, ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from fastapi.responses import Response

    from llm_gateway.config import Route

# Seconds. A model that doesn't say within this time that it is well counts as not answering, unless it has said so as
# short a time ago: a full machine may stall that long, and a model that hangs is still found out within two seconds.
_PROBE_TIMEOUT_S = 1.0
# Seconds that an answer about a model's health is good for.
_PROBE_TTL_S = 0.5
_CONNECT_TIMEOUT_S = 2.0
# Seconds; below those after which HAProxy and Serve close an idle connection.
_KEEPALIVE_S = 30.0
_DOCUMENT_TIMEOUT_S = 5.0

_FORWARDED_REQUEST_HEADERS = ("accept", "content-type", "x-request-id")
_FORWARDED_RESPONSE_HEADERS = ("content-type", "retry-after", CODE_HEADER)

State = Literal["ok", "loading", "unavailable"]


class Upstream:
    """The models behind one Serve proxy.

    Args:
        base_url: of the Serve proxy, such as ``http://127.0.0.1:18000``.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._session: aiohttp.ClientSession | None = None
        self._probes: dict[str, tuple[float, asyncio.Task[State]]] = {}
        self._well_at: dict[str, float] = {}

    @property
    def _http(self) -> aiohttp.ClientSession:
        # Made at the first request: aiohttp wants the event loop that it will run in.
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S)
            self._session = aiohttp.ClientSession(
                timeout=timeout,
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
                auto_decompress=False,
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def state(self, route: Route) -> State:
        """How a model is: what it said now, or less than a second ago."""
        at, task = self._probes.get(route.slug, (0.0, None))
        now = time.monotonic()
        if task is None or (task.done() and now - at > _PROBE_TTL_S):
            at, task = now, asyncio.create_task(self._probe(route))
            self._probes[route.slug] = (at, task)
        return await asyncio.shield(task)

    async def _probe(self, route: Route) -> State:
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
        began = time.monotonic()
        try:
            async with self._http.get(f"{self._base_url}/m/{route.slug}/health", timeout=timeout) as response:
                if response.status == 200:
                    self._well_at[route.slug] = time.monotonic()
                    return "ok"
                return "loading" if response.headers.get(CODE_HEADER) == "model_loading" else "unavailable"
        except TimeoutError:
            return (
                "ok" if began - self._well_at.get(route.slug, -_PROBE_TIMEOUT_S) < _PROBE_TIMEOUT_S else "unavailable"
            )
        except aiohttp.ClientError:
            return "unavailable"

    async def get_json(self, route: Route, path: str) -> dict[str, Any]:
        """What a model's application says to a GET.

        Raises:
            ApiError: it can't answer.
        """
        timeout = aiohttp.ClientTimeout(total=_DOCUMENT_TIMEOUT_S)
        try:
            async with self._http.get(f"{self._base_url}/m/{route.slug}{path}", timeout=timeout) as response:
                response.raise_for_status()
                document: dict[str, Any] = await response.json()
                return document
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ApiError(503, _errors.UNAVAILABLE, "service_unavailable") from error

    async def forward(self, route: Route, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Send a request to a model and pass its answer on as it comes.

        Args:
            route: the model.
            path: the path under the model's prefix, such as ``/v1/chat/completions``.
            query: the query string, without the question mark.
            headers: the client's headers; only the ones that the engine needs are sent on.
            body: the client's body, untouched.

        Raises:
            ApiError: nothing of an answer came.
        """
        sent = {name: headers[name] for name in _FORWARDED_REQUEST_HEADERS if name in headers}
        url = f"{self._base_url}/m/{route.slug}{path}" + (f"?{query}" if query else "")
        upstream = await self._post(url, sent, body)
        if upstream.status >= 400 and CODE_HEADER not in upstream.headers:
            # HAProxy and Serve say in plain text, or as a 500, what they can't do.
            upstream.release()
            raise ApiError(503, _errors.UNAVAILABLE, "service_unavailable")
        received = {name: upstream.headers[name] for name in _FORWARDED_RESPONSE_HEADERS if name in upstream.headers}
        is_stream = upstream.content_type == "text/event-stream"
        return StreamingResponse(_pass_on(upstream, is_stream), upstream.status, received)

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> aiohttp.ClientResponse:
        for is_last in (False, True):
            try:
                return await self._http.post(url, data=body, headers=headers)
            except aiohttp.ServerDisconnectedError as error:
                # An idle connection that was closed in the moment of its use; a completion may be asked for twice.
                if is_last:
                    raise ApiError(503, _errors.UNAVAILABLE, "service_unavailable") from error
            except (aiohttp.ClientError, TimeoutError) as error:
                raise ApiError(503, _errors.UNAVAILABLE, "service_unavailable") from error
        raise AssertionError


async def _pass_on(upstream: aiohttp.ClientResponse, is_stream: bool) -> AsyncIterator[bytes]:
    try:
        async for chunk in upstream.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError):
        if not is_stream:
            raise
        yield ApiError(503, _errors.BROKEN_STREAM, "service_unavailable").event()
    finally:
        # Also when the client has left: closing the connection is what makes the engine stop.
        upstream.close()
