"""The real SDKs of OpenAI, Python and Node: what users see of an answer and, above all, of an error."""

from __future__ import annotations

import asyncio
import contextlib
import json
import operator
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import openai
import pytest
from contract import BODY_LIMIT, CANARY, ERRORS, chat
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contract import Service

_MODEL = "MODEL"
_CHAT = "chat.completions.create"


class Call(NamedTuple):
    """A call of an SDK, which both have under the same name, and the error it must raise."""

    name: str
    method: str
    params: dict[str, Any] | str
    error: str
    status: int | None
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = {}  # noqa: RUF012  # nobody changes it

    def __str__(self) -> str:
        return self.name


_BAD_CALLS = [
    Call("value", _CHAT, chat(_MODEL, max_tokens=0), "BadRequestError", 400, None, "max_tokens"),
    Call("streamed", _CHAT, chat(_MODEL, temperature=5, stream=True), "BadRequestError", 400, None, "temperature"),
    Call("type", _CHAT, chat(_MODEL, messages="hello"), "BadRequestError", 400, None, "messages"),
    Call("no-model", _CHAT, chat(5), "BadRequestError", 400, None, "model"),  # type: ignore[arg-type]  # it's wrong
    Call("model", _CHAT, chat(CANARY), "NotFoundError", 404, "model_not_found", "model"),
    Call("model-streamed", _CHAT, chat(CANARY, stream=True), "NotFoundError", 404, "model_not_found", "model"),
    *(
        Call(f"model-{method}", method, params, "NotFoundError", 404, "model_not_found", "model")
        for method, params in (
            ("completions.create", {"model": CANARY, "prompt": CANARY}),
            ("responses.create", {"model": CANARY, "input": CANARY}),
            ("embeddings.create", {"model": CANARY, "input": CANARY}),
            ("models.retrieve", CANARY),
        )
    ),
    Call("url", "moderations.create", {"model": _MODEL, "input": CANARY}, "NotFoundError", 404, "unknown_url"),
    Call("images", "images.generate", {"model": _MODEL, "prompt": CANARY}, "NotFoundError", 404, "unknown_url"),
    Call("method", "models.delete", _MODEL, "APIStatusError", 405, "method_not_allowed"),
    Call("media-type", _CHAT, chat(_MODEL), "APIStatusError", 415, "unsupported_media_type", None)._replace(
        headers={"Content-Type": "text/plain"}
    ),
    Call(
        "size",
        _CHAT,
        chat(_MODEL, messages=[{"role": "user", "content": "x" * (BODY_LIMIT + 2**20)}]),
        "APIStatusError",
        413,
        "request_too_large",
    ),
]
_GOOD_CALLS = [
    Call("chat", _CHAT, chat(_MODEL), "", 200),
    Call("chat-streamed", _CHAT, chat(_MODEL, stream=True), "", 200),
    Call("completion", "completions.create", {"model": _MODEL, "prompt": "Hello", "max_tokens": 1}, "", 200),
    Call("response", "responses.create", {"model": _MODEL, "input": "Hello", "max_output_tokens": 1}, "", 200),
    Call(
        "response-streamed",
        "responses.create",
        {"model": _MODEL, "input": "Hello", "max_output_tokens": 1, "stream": True},
        "",
        200,
    ),
    Call("model", "models.retrieve", _MODEL, "", 200),
]
# What no well-behaved client can bring about is played by a stand-in, with the contract's own bytes.
_STATUS_CLASSES = {401: "AuthenticationError", 408: "APIStatusError", 429: "RateLimitError"} | {
    status: "InternalServerError" for status in ERRORS if status >= 500
}
_PLAYED_CALLS = [
    Call(f"{status}-{code}", _CHAT, chat(_MODEL), _STATUS_CLASSES[status], status, code)
    for status in _STATUS_CLASSES
    for code in sorted(ERRORS[status].codes or ())
]
_BROKEN_STREAM = Call("broken", _CHAT, chat(_MODEL, stream=True), "APIError", None, "service_unavailable")


def _envelope(status: int, code: str | None) -> bytes:
    error = {"message": "It can't be done.", "type": ERRORS[status].type, "param": None, "code": code}
    return json.dumps({"error": error}).encode()


class _StandIn(BaseHTTPRequestHandler):
    """Answers ``/<status>-<code>/…`` with that error, and ``/broken/…`` with a stream that breaks off."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        name = self.path.split("/")[1]
        if name == _BROKEN_STREAM.name:
            self._send(200, "text/event-stream", self._stream())
        else:
            status, _, code = name.partition("-")
            self._send(int(status), "application/json", _envelope(int(status), code))

    def _stream(self) -> bytes:
        choice = {"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "finish_reason": None}
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        return f"data: {json.dumps(chunk)}\n\n".encode() + b"data: " + _envelope(503, _BROKEN_STREAM.code) + b"\n\n"

    def _send(self, status: int, media_type: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", media_type), ("X-Request-Id", "played"), ("Retry-After", "2")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def stand_in() -> Iterator[str]:
    """The address of a service that does what ours hopefully never does."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _StandIn) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _filled(call: Call, model: str) -> Call:
    if isinstance(call.params, str):
        return call._replace(params=call.params.replace(_MODEL, model))
    return call._replace(
        params={name: model if value == _MODEL else value for name, value in call.params.items()},
    )


def _check_error(error: openai.APIError, call: Call) -> None:
    assert type(error).__name__ == call.error
    assert (error.code, error.param) == (call.code, call.param)
    if isinstance(error, openai.APIStatusError):
        assert error.status_code == call.status
        assert error.type == ERRORS[error.status_code].type
        assert error.request_id
        assert isinstance(error.body, dict)
        assert set(error.body) == {"message", "type", "param", "code"}
    else:
        assert error.type in {kind.type for kind in ERRORS.values()}
    assert error.message
    assert CANARY not in str(error)


def _arguments(call: Call) -> tuple[tuple[str, ...], dict[str, Any]]:
    args, kwargs = ((call.params,), {}) if isinstance(call.params, str) else ((), dict(call.params))
    return args, kwargs | ({"extra_headers": call.headers} if call.headers else {})


def _python(call: Call, url: str, key: str) -> openai.APIError | None:
    args, kwargs = _arguments(call)
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60) as client:
        try:
            answer = operator.attrgetter(call.method)(client)(*args, **kwargs)
            if kwargs.get("stream"):
                with answer:
                    assert list(answer)
        except openai.APIError as error:
            return error
    return None


async def _python_async(call: Call, url: str, key: str) -> openai.APIError | None:
    args, kwargs = _arguments(call)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60) as client:
        try:
            answer = await operator.attrgetter(call.method)(client)(*args, **kwargs)
            if kwargs.get("stream"):
                async with contextlib.aclosing(answer.__aiter__()) as stream:
                    assert [event async for event in stream]
        except openai.APIError as error:
            return error
    return None


def _outcome(kind: str, call: Call, url: str, key: str) -> openai.APIError | None:
    return _python(call, url, key) if kind == "sync" else asyncio.run(_python_async(call, url, key))


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("call", _BAD_CALLS, ids=str)
def test_python_error(base_url: str, api_key: str, chat_model: str, kind: str, call: Call) -> None:
    error = _outcome(kind, _filled(call, chat_model), base_url, api_key)
    assert error is not None
    _check_error(error, call)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("call", [*_PLAYED_CALLS, _BROKEN_STREAM], ids=str)
def test_python_error_played(stand_in: str, kind: str, call: Call) -> None:
    error = _outcome(kind, call, f"{stand_in}/{call.name}", "key")
    assert error is not None
    _check_error(error, call)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("call", _GOOD_CALLS, ids=str)
def test_python_answer(base_url: str, api_key: str, chat_model: str, kind: str, call: Call) -> None:
    assert _outcome(kind, _filled(call, chat_model), base_url, api_key) is None


def test_python_with_a_wrong_key(base_url: str) -> None:
    call = Call("key", "models.list", {}, "AuthenticationError", 401, "invalid_api_key")
    error = _python(call, base_url, CANARY)
    if error is None:
        pytest.skip("this service wants no key")
    _check_error(error, call)


def test_answers_are_what_the_sdk_says_they_are(service: Service, chat_model: str) -> None:
    # The SDK takes whatever comes; its types know better.
    hello: dict[str, Any] = {"model": chat_model, "max_tokens": 2}
    answer = service.post("/v1/chat/completions", json=chat(chat_model, logprobs=True, top_logprobs=1))
    ChatCompletion.model_validate_json(answer.content)
    Completion.model_validate_json(service.post("/v1/completions", json=hello | {"prompt": "Hello"}).content)
    body = {"model": chat_model, "input": "Hello", "max_output_tokens": 1}
    # The engine is older than the newest counters.
    Response.model_validate(service.post("/v1/responses", json=body).json() | {"usage": None})
    stream = service.post("/v1/chat/completions", json=chat(chat_model, stream=True))
    for line in stream.text.split("\n\n")[:-2]:
        ChatCompletionChunk.model_validate_json(line.removeprefix("data: "))


def test_embeddings_are_what_the_sdk_says_they_are(service: Service, embedding_model: str) -> None:
    answer = service.post("/v1/embeddings", json={"model": embedding_model, "input": "Hello"})
    CreateEmbeddingResponse.model_validate_json(answer.content)


def _node(directory: Path, calls: list[tuple[str, Call]], key: str) -> list[dict[str, Any]]:
    asked = [
        {"baseURL": f"{url}/v1", "call": call.method, "params": call.params, "headers": call.headers}
        for url, call in calls
    ]
    done = subprocess.run(
        ["node", "calls.mjs"],
        cwd=directory,
        input=json.dumps({"apiKey": key, "calls": asked}),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    outcomes: list[dict[str, Any]] = json.loads(done.stdout)
    return outcomes


@pytest.fixture(scope="module")
def node_outcomes(
    node_sdk: Path, base_url: str, stand_in: str, api_key: str, chat_model: str
) -> dict[int, dict[str, Any]]:
    """What came of every call in one run of Node, which takes longer to start than to call."""
    ours = [(base_url, call) for call in (*_BAD_CALLS, *_GOOD_CALLS)]
    played = [(f"{stand_in}/{call.name}", call) for call in (*_PLAYED_CALLS, _BROKEN_STREAM)]
    outcomes = _node(node_sdk, [(url, _filled(call, chat_model)) for url, call in ours + played], api_key)
    return {id(call): outcome for (_, call), outcome in zip(ours + played, outcomes, strict=True)}


@pytest.mark.parametrize("call", [*_BAD_CALLS, *_PLAYED_CALLS, _BROKEN_STREAM], ids=str)
def test_node_error(node_outcomes: dict[int, dict[str, Any]], call: Call) -> None:
    outcome = node_outcomes[id(call)]
    # For the statuses without a class of their own, Node's has another name.
    assert outcome["error"] == call.error.replace("APIStatusError", "APIError"), outcome
    assert (outcome.get("code"), outcome.get("param")) == (call.code, call.param)
    if call.status is not None:
        assert (outcome["status"], outcome["type"]) == (call.status, ERRORS[call.status].type)
        assert outcome["requestID"]
    assert CANARY not in outcome["message"]


@pytest.mark.parametrize("call", _GOOD_CALLS, ids=str)
def test_node_answer(node_outcomes: dict[int, dict[str, Any]], call: Call) -> None:
    outcome = node_outcomes[id(call)]
    assert outcome["error"] is None, outcome
    assert (outcome["events"] > 0) == (isinstance(call.params, dict) and bool(call.params.get("stream")))
