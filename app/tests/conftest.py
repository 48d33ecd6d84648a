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
        self.is_loading = False
        self.seen: list[tuple[str, str, bytes]] = []
        self.url = ""

    async def _health(self, _: web.Request) -> web.Response:
        if self.hangs:
            await asyncio.sleep(5)
        if self.is_loading:
            return web.Response(status=503, headers={"X-Llm-Error-Code": "model_loading"})
        return web.Response(status=200 if self.is_well else 503)

    async def _openapi(self, _: web.Request) -> web.Response:
        answers = {"200": {"description": "OK"}, "422": {"description": "FastAPI's own"}}
        operation = {"requestBody": {"$ref": "#/components/schemas/Chat"}, "responses": answers}
        schemas = {"Chat": {"items": {"$ref": "#/components/schemas/Message"}}, "Message": {}, "Unused": {}}
        paths = {"/v1/chat/completions": {"post": operation}, "/reset_prefix_cache": {"post": operation}}
        return web.json_response({"paths": paths, "components": {"schemas": schemas}})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append((request.path_qs, request.headers.get("X-Request-Id", ""), body))
        if b"hangs up once" in body and len(self.seen) == 1:
            assert request.transport is not None
            request.transport.close()
        if b"refusal" in body:
            return web.Response(status=400, body=b"{}", headers={"X-Llm-Error-Code": "null"})
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

    async def _form(self, request: web.Request) -> web.Response:
        return web.json_response({"bytes": len(await request.read())})

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/m/{slug}/health", self._health)
        app.router.add_get("/m/{slug}/openapi.json", self._openapi)
        app.router.add_post("/m/{slug}/v1/chat/completions", self._chat)
        app.router.add_post("/m/{slug}/v1/audio/transcriptions", self._form)
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
