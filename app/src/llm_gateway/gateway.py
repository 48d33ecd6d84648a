"""The gateway application: health, the list of models, and the API directly on Serve's own port.

It knows the models from its arguments alone and asks each of them over HTTP through the Serve proxy of its own node, so
it starts in any order with them, answers while the head is away, and says of a model what a client would see.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from llm_gateway import _errors, _openapi
from llm_gateway._body import model_of_form, model_of_json
from llm_gateway._errors import ApiError
from llm_gateway._routes import FORM_PATHS, JSON_PATHS
from llm_gateway._upstream import State, Upstream
from llm_gateway.config import GatewayApplication

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ray.serve import Application


def make_app(config: GatewayApplication, base_url: str) -> FastAPI:
    """The gateway as an ASGI application.

    Args:
        config: the models that it stands for.
        base_url: of the Serve proxy that leads to them, such as ``http://127.0.0.1:18000``.
    """
    upstream = Upstream(base_url)
    by_name = {name: route for route in config.models for name in (route.id, *route.aliases)}
    slugs = {route.slug for route in config.models}
    started = int(time.time())
    unknown_model = ApiError(404, _errors.UNKNOWN_MODEL, "model_not_found", "model")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await upstream.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)

    async def states() -> dict[str, State]:
        found = await asyncio.gather(*(upstream.state(route) for route in config.models))
        return {route.id: state for route, state in zip(config.models, found, strict=True)}

    def card(name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": started,
            "owned_by": "vllm",
            "root": by_name[name].id,
        }

    async def live() -> dict[str, str]:
        return {"status": "ok"}

    async def health() -> JSONResponse:
        now = await states()
        return _health(now, is_well="ok" in now.values())

    async def ready() -> JSONResponse:
        now = await states()
        return _health(now, is_well=set(now.values()) == {"ok"})

    async def models(request: Request) -> dict[str, object]:
        may_use, now = _allowed(request, slugs), await states()
        listed = [name for name, route in by_name.items() if now[route.id] == "ok" and route.slug in may_use]
        return {"object": "list", "data": [card(name) for name in listed]}

    async def model(name: str, request: Request) -> dict[str, object]:
        route = by_name.get(name)
        if route is None or route.slug not in _allowed(request, slugs) or await upstream.state(route) != "ok":
            raise unknown_model
        return card(name)

    async def openapi() -> dict[str, Any]:
        now = await states()
        answering = [route for route in config.models if now[route.id] == "ok"]
        return _openapi.document([await upstream.get_json(route, "/openapi.json") for route in answering])

    endpoints: dict[str, Callable[..., Any]] = {
        "/health/live": live,
        "/health": health,
        "/health/ready": ready,
        "/v1/models": models,
        "/v1/models/{name:path}": model,
        "/v1/openapi.json": openapi,
    }
    for path, endpoint in endpoints.items():
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], response_model=None)

    async def direct(request: Request) -> Response:
        path, kind = request.url.path, request.headers.get("content-type", "")
        is_form = path in FORM_PATHS
        if kind.split(";")[0].strip().lower() != ("multipart/form-data" if is_form else "application/json"):
            wanted = "multipart/form-data" if is_form else "application/json"
            raise ApiError(415, f"The body must be sent as {wanted}.", "unsupported_media_type")
        body = await _body(request, config.max_body_mib)
        name = model_of_form(body, kind) if is_form else model_of_json(body)
        route = by_name.get(name)
        if route is None:
            raise unknown_model
        return await upstream.forward(route, path, request.url.query, request.headers, body)

    for path in (*JSON_PATHS, *FORM_PATHS):
        app.add_api_route(path, direct, methods=["POST"], response_model=None)

    @app.api_route("/m/{slug}/{_:path}", methods=["GET", "POST"])
    async def not_deployed(slug: str) -> Response:
        # Serve sends a model's own prefix here only as long as its application isn't there.
        if slug in slugs:
            raise ApiError(503, "The model is being loaded. Try again in a few seconds.", "model_loading")
        raise unknown_model

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return _response(error)

    @app.exception_handler(404)
    async def unknown_url(_: Request, __: Exception) -> Response:
        return _response(ApiError(404, _errors.UNKNOWN_URL, "unknown_url"))

    @app.exception_handler(405)
    async def method_not_allowed(_: Request, error: Exception) -> Response:
        response = _response(ApiError(405, _errors.METHOD_NOT_ALLOWED, "method_not_allowed"))
        response.headers["allow"] = (getattr(error, "headers", None) or {}).get("Allow", "")
        return response

    @app.exception_handler(Exception)
    async def internal(_: Request, __: Exception) -> Response:
        # It is raised again afterwards, so that Serve logs it.
        return _response(ApiError(500, _errors.INTERNAL, "internal_error"))

    return app


def _response(error: ApiError) -> Response:
    return Response(error.body(), error.status, error.headers())


def _allowed(request: Request, slugs: set[str]) -> set[str]:
    """The models that the client may use, as nginx says; all of them where it says nothing."""
    given = request.headers.get("x-llm-models")
    return slugs if given is None else slugs & set(given.split())


async def _body(request: Request, most_mib: int) -> bytes:
    """The body of a request.

    Raises:
        ApiError: it is too large; it was not read to its end.
    """
    most = most_mib * 2**20
    body = bytearray()
    if int(request.headers.get("content-length", "0")) <= most:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                break
        else:
            return bytes(body)
    raise ApiError(413, f"The body is larger than {most_mib} MiB.", "request_too_large")


def _health(states: dict[str, State], *, is_well: bool) -> JSONResponse:
    status = "unavailable" if not is_well else "ok" if set(states.values()) == {"ok"} else "degraded"
    report = {"status": status, "models": states}
    return JSONResponse(report) if is_well else JSONResponse(report, 503, {"Retry-After": str(_errors.RETRY_AFTER_S)})


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
        max_ongoing_requests=10_000,
    )
    # A function, not an app: it is called on the replica, so the app needs no pickling.
    return deployment(serve.ingress(lambda: make_app(config, f"http://127.0.0.1:{config.port}"))()).bind()
