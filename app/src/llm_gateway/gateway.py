"""The gateway application: health, the list of models, and direct ``/v1`` on Serve's own port.

It knows the models from its arguments alone and asks each of them over HTTP through the Serve proxy of its own node, so
it starts in any order with them, answers while the head is away, and says of a model what a client would see.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from llm_gateway._errors import error_response
from llm_gateway._upstream import Upstream
from llm_gateway.config import GatewayApplication, Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ray.serve import Application

_UNKNOWN_MODEL = "The model does not exist or you may not use it. GET /v1/models lists what there is."


def make_app(config: GatewayApplication, base_url: str) -> FastAPI:
    """The gateway as an ASGI application.

    Args:
        config: the models that it stands for.
        base_url: of the Serve proxy that leads to them, such as ``http://127.0.0.1:18000``.
    """
    upstream = Upstream(base_url)
    by_name = {name: route for route in config.models for name in (route.id, *route.aliases)}
    by_slug = {route.slug: route for route in config.models}
    started = int(time.time())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await upstream.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)

    async def states() -> dict[str, bool]:
        answers = await asyncio.gather(*(upstream.answers(route) for route in config.models))
        return {route.id: answer for route, answer in zip(config.models, answers, strict=True)}

    def card(name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": started,
            "owned_by": "vllm",
            "root": by_name[name].id,
        }

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/health")
    async def health() -> JSONResponse:
        now = await states()
        return _health(now, is_well=any(now.values()))

    @app.get("/health/ready")
    async def ready() -> JSONResponse:
        now = await states()
        return _health(now, is_well=all(now.values()))

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        now = await states()
        return {"object": "list", "data": [card(name) for name, route in by_name.items() if now[route.id]]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        route = by_name.get(name)
        if route is None or not await upstream.answers(route):
            return error_response(404, _UNKNOWN_MODEL, "model_not_found", "model")
        return JSONResponse(card(name))

    @app.post("/v1/{path:path}")
    async def direct(path: str, request: Request) -> Response:
        body = await request.body()
        route = _route_of(body, by_name)
        if isinstance(route, Response):
            return route
        return await upstream.forward(route, "POST", f"/v1/{path}", request.url.query, request.headers, body)

    @app.api_route("/m/{slug}/{_:path}", methods=["GET", "POST"])
    async def not_deployed(slug: str) -> Response:
        # Serve sends a model's own prefix here only as long as its application isn't there.
        if slug in by_slug:
            return error_response(503, "The model is being loaded. Try again in a few seconds.", "model_loading")
        return error_response(404, _UNKNOWN_MODEL, "model_not_found", "model")

    @app.exception_handler(404)
    async def unknown_url(_: Request, __: Exception) -> Response:
        return error_response(404, "There is nothing at this URL.", "unknown_url")

    @app.exception_handler(405)
    async def method_not_allowed(_: Request, __: Exception) -> Response:
        return error_response(405, "This URL doesn't take that method.", "method_not_allowed")

    @app.exception_handler(Exception)
    async def internal(_: Request, __: Exception) -> Response:
        return error_response(500, "The gateway failed. The operator finds the reason in its log.", "internal_error")

    return app


def _health(states: dict[str, bool], *, is_well: bool) -> JSONResponse:
    status = "unavailable" if not is_well else "ok" if all(states.values()) else "degraded"
    models = {name: "ok" if answers else "unavailable" for name, answers in states.items()}
    return JSONResponse({"status": status, "models": models}, status_code=200 if is_well else 503)


def _route_of(body: bytes, by_name: dict[str, Route]) -> Route | Response:
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return error_response(400, "The body is not valid JSON.", "invalid_json")
    name = request.get("model") if isinstance(request, dict) else None
    if not isinstance(name, str):
        return error_response(400, "The body must be a JSON object with a string `model`.", None, "model")
    return by_name.get(name) or error_response(404, _UNKNOWN_MODEL, "model_not_found", "model")


def build(args: dict[str, Any]) -> Application:
    """Build the gateway's application: one replica on every node.

    Args:
        args: the fields of :class:`~llm_gateway.config.GatewayApplication`.

    Raises:
        pydantic.ValidationError: a field is unknown, missing or out of range.
    """
    config = GatewayApplication.model_validate(args)

    from ray import serve

    deployment = serve.deployment(
        name="Gateway",
        num_replicas=config.nodes,
        # With one replica it would die with its node while the models live on.
        max_replicas_per_node=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1000,
    )
    # A function, not an app: it is called on the replica, so the app needs no pickling.
    return deployment(serve.ingress(lambda: make_app(config, f"http://127.0.0.1:{config.port}"))()).bind()
