"""An engine that only keeps time: a fixed TTFT and TPOT, next to no CPU, and no model behind it.

``uvicorn mock_engine:app`` serves it alone, in the place of ``vllm serve``. Under ray.serve.llm it is an engine class:
``RAYLLM_VLLM_ENGINE_CLS=mock_engine:MockEngine`` puts it in vLLM's place, with the same ASGI app on the direct path and
the same chunks on the plain one. The shape of the chunks was read from what vllm 0.29.0 sends.

Environment: ``MOCK_TTFT_MS`` (50) and ``MOCK_TPOT_MS`` (20), milliseconds; ``MOCK_MODEL`` (bench/model), the id that
``/v1/models`` lists. A request may set ``mock_ttft_ms`` in its body for itself.

It imports nothing but FastAPI at the top, because the bare engine is to be served without Ray.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

MODEL = os.environ.get("MOCK_MODEL", "bench/model")
TTFT_S = float(os.environ.get("MOCK_TTFT_MS", "50")) / 1000
TPOT_S = float(os.environ.get("MOCK_TPOT_MS", "20")) / 1000
_DEFAULT_MAX_TOKENS = 16
_PROMPT_TOKENS = 128  # said in `usage`; nothing is counted
# In turn: a gateway may take a model that says the same thing all the time for a broken one, and end the stream.
_TOKENS = tuple(f" {word}" for word in ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])


class _Job:
    """One request: what it asks for, and when its tokens are due.

    Args:
        body: the request as the client sent it.
        kind: ``chat.completion`` or ``text_completion``.
    """

    def __init__(self, body: dict[str, Any], kind: str) -> None:
        self.began = time.monotonic()
        self.model = str(body.get("model") or MODEL)
        self.tokens = int(body.get("max_completion_tokens") or body.get("max_tokens") or _DEFAULT_MAX_TOKENS)
        self.ttft_s = float(body.get("mock_ttft_ms", TTFT_S * 1000)) / 1000
        self.stream = bool(body.get("stream"))
        self.usage_wanted = bool((body.get("stream_options") or {}).get("include_usage"))
        self.kind = kind
        self.id = f"{'chatcmpl' if kind == 'chat.completion' else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    async def due(self, token: int) -> None:
        """Wait until a token, counted from 0, is due; late ones are not waited for, so that no delay adds up."""
        delay = self.began + self.ttft_s + token * TPOT_S - time.monotonic()
        # Also where none is left: other requests have their turn.
        await asyncio.sleep(max(delay, 0))

    def usage(self) -> dict[str, int]:
        """vLLM's `usage`."""
        return {
            "prompt_tokens": _PROMPT_TOKENS,
            "total_tokens": _PROMPT_TOKENS + self.tokens,
            "completion_tokens": self.tokens,
        }

    def head(self, kind: str) -> dict[str, Any]:
        """What every answer and every chunk begins with."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def answer(self) -> dict[str, Any]:
        """The whole answer of a request that is not streamed."""
        text = "".join(_TOKENS[number % len(_TOKENS)] for number in range(self.tokens))
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "length", "stop_reason": None}
        if self.kind == "chat.completion":
            choice["message"] = {"role": "assistant", "content": text, "tool_calls": []}
        else:
            choice["text"] = text
        return {**self.head(self.kind), "choices": [choice], "usage": self.usage()}

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        if self.kind == "chat.completion":
            chunk, choice["delta"] = self.head("chat.completion.chunk"), delta
        else:
            chunk, choice["text"] = self.head(self.kind), delta.get("content", "")
        return f"data: {json.dumps({**chunk, 'choices': [choice]}, separators=(',', ':'))}\n\n"

    async def events(self) -> AsyncIterator[str]:
        """The server-sent events of a stream: the role, one token a chunk, the usage if it was asked for, the end."""
        # Made once, whatever the number of tokens.
        chunks = [self._chunk({"content": token}) for token in _TOKENS[: self.tokens]]
        last = self._chunk({"content": _TOKENS[-1]}, "length")
        await self.due(0)
        if self.kind == "chat.completion":
            yield self._chunk({"role": "assistant", "content": ""})
        for number in range(self.tokens):
            if number:
                await self.due(number)
            yield chunks[number % len(chunks)] if number + 1 < self.tokens else last
        if self.usage_wanted:
            chunk = {**self.head("chat.completion.chunk"), "choices": [], "usage": self.usage()}
            yield f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"
        yield "data: [DONE]\n\n"


class _Endpoint:
    """One of the two routes that generate, as plain ASGI: a request object would cost more than the work."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            job = _Job(json.loads(body), self._kind)
        except (ValueError, TypeError, AttributeError):
            error = {"message": "bad request", "type": "BadRequestError", "param": None, "code": 400}
            await JSONResponse({"error": error}, 400)(scope, receive, send)
            return
        if not job.stream:
            await job.due(job.tokens - 1)
            await JSONResponse(job.answer())(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for event in job.events():
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def build_app(model: str = MODEL) -> FastAPI:
    """The ASGI app, without middleware.

    Args:
        model: the id that ``/v1/models`` lists.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    async def models() -> JSONResponse:
        card = {"id": model, "object": "model", "created": int(time.time()), "owned_by": "vllm", "root": model}
        return JSONResponse({"object": "list", "data": [card]})

    async def health() -> JSONResponse:
        return JSONResponse({})

    app.add_api_route("/v1/models", models, methods=["GET"])
    app.add_api_route("/health", health, methods=["GET"])
    for path, kind in (("/v1/chat/completions", "chat.completion"), ("/v1/completions", "text_completion")):
        app.router.routes.append(Route(path, endpoint=_Endpoint(kind), methods=["POST"]))
    return app


app = build_app()


class MockEngine:
    """The engine class for ray.serve.llm: its ``LLMEngine`` protocol (ray 2.60.0), as far as a chat needs it.

    Args:
        llm_config: the model's ``LLMConfig``; only its model id is used.
    """

    def __init__(self, llm_config: Any) -> None:
        self.model = str(llm_config.model_id)
        # Where VLLMEngine keeps vLLM's registry of names; servers that add aliases write to it.
        path = SimpleNamespace(name=self.model, model_path=self.model)
        self._oai_models = SimpleNamespace(base_model_paths=[path])

    async def start(self) -> None:
        """Nothing has to be started."""

    async def check_health(self) -> None:
        """It is always well."""

    def routing_stats(self) -> dict[str, Any]:
        """Serve asks each replica; there is nothing to say."""
        return {}

    async def build_asgi_app(self) -> FastAPI:
        """The app that answers on the direct path."""
        return build_app(self.model)

    async def _generate(self, request: Any, kind: str, response_class: type[Any]) -> AsyncIterator[Any]:
        job = _Job(request.model_dump(include=_FIELDS), kind)
        if job.stream:
            async for event in job.events():
                yield event
        else:
            await job.due(job.tokens - 1)
            yield response_class.model_validate(job.answer())

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:  # noqa: ARG002 - the protocol's
        """ray.serve.llm's plain path: events as text for a stream, else one ``ChatCompletionResponse``."""
        from ray.serve.llm.openai_api_models import ChatCompletionResponse

        async for item in self._generate(request, "chat.completion", ChatCompletionResponse):
            yield item

    async def completions(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:  # noqa: ARG002 - as above
        """The same for ``CompletionResponse``."""
        from ray.serve.llm.openai_api_models import CompletionResponse

        async for item in self._generate(request, "text_completion", CompletionResponse):
            yield item


# What a job reads of a request.
_FIELDS = {"model", "max_completion_tokens", "max_tokens", "stream", "stream_options"}
