"""The replica of a model: ray.serve.llm's server, with what the platform adds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from ray.serve.llm import LLMServer
from ray.serve.llm.openai_api_models import CompletionRequest

from llm_gateway import _ray_private, _usage, _vllm_errors
from llm_gateway._contract import Contract, Slots

if TYPE_CHECKING:
    from fastapi import FastAPI, Request


class ModelServer(LLMServer):  # type: ignore[misc]  # Ray ships no types for it
    """ray.serve.llm's server, keeping the API contract, and ready only when a token came out."""

    async def start(self) -> None:
        """Start the engine, make its aliases known, and have it generate once.

        An engine compiles kernels at its first request: for half a minute, or never, where a compiler is missing. So
        the first request is ours, and a replica that can't answer never counts as running.

        Raises:
            Exception: whatever the engine raises when it can't start; Serve puts it into the deployment's message.
        """
        await super().start()
        _ray_private.add_model_names(self.engine, self._llm_config.experimental_configs["aliases"])
        request = CompletionRequest(model=self._llm_config.model_id, prompt="Hello", max_tokens=2)
        # A model that embeds or transcribes answers with an error, and is none the worse for it.
        async for _ in await self.completions(request):
            pass
        await self.check_health()

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """The engine's own application inside the contract. Ray Serve calls it once, after :meth:`start`."""
        app: FastAPI = await super().__serve_build_asgi_app__()
        app.add_exception_handler(RequestValidationError, _refuse)
        _ray_private.add_check_of_roles(app, self.engine)
        limits: dict[str, Any] = self._llm_config.experimental_configs["limits"]
        _ray_private.add_usage(self.engine)
        _ray_private.add_middleware(
            app,
            Contract,
            slots=Slots(**limits),
            engine_is_dead=lambda: _ray_private.engine_is_dead(self.engine),
            book=_usage.Book(self._llm_config.model_id, _usage.directory(), _usage.metrics()),
        )
        return app


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    made = _vllm_errors.from_validation(error.errors())
    return Response(made.body(), made.status, made.headers())
