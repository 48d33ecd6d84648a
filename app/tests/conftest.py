"""What the tests of the package share."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator


class StandInForServe:
    """A loopback HTTP server in the place of Serve's proxy with one model's engine behind it."""

    def __init__(self) -> None:
        self.is_well = True
        self.hangs = False
        self.seen: list[tuple[str, str, bytes]] = []
        self.url = ""

    async def _health(self, _: web.Request) -> web.Response:
        if self.hangs:
            await asyncio.sleep(5)
        return web.Response(status=200 if self.is_well else 503)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append((request.path_qs, request.headers.get("X-Request-Id", ""), body))
        if b"plain-failure" in body:
            return web.Response(status=500, text="Internal Server Error")
        if not json.loads(body).get("stream"):
            return web.json_response({"object": "chat.completion"}, headers={"X-Request-Id": "r1"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"n":1}\n\n')
        if b"dies" in body:
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(b"data: [DONE]\n\n")
        return response

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/m/{slug}/health", self._health)
        app.router.add_post("/m/{slug}/v1/chat/completions", self._chat)
        return app


@pytest.fixture
def serve() -> Iterator[StandInForServe]:
    """A running stand-in for Serve, on a free loopback port."""
    stand_in = StandInForServe()
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(stand_in.app())
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    stand_in.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield stand_in
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
