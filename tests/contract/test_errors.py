"""The table of bad requests: each gets the contract's own error, and none is told about the inside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from contract import BODY_LIMIT, CANARY, FORM_PATHS, GET_PATHS, HEALTH_PATHS, JSON_PATHS, chat, error_of

if TYPE_CHECKING:
    import httpx
    from contract import Service

_CHAT = "/v1/chat/completions"
_TEXT = [{"role": "user", "content": CANARY}]
# In the place of a model's name in a body that isn't JSON.
_MODEL = "MODEL"
_DEEP = 100_000
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Wrong(NamedTuple):
    """A parameter that the chat model can't do anything with."""

    changes: dict[str, Any]
    # What `param` starts with.
    param: str
    path: str = _CHAT

    def __str__(self) -> str:
        shown = ",".join(f"{name}={json.dumps(value, default=str)[:40]}" for name, value in self.changes.items())
        return f"{self.path.removeprefix('/v1/')}-{shown}".replace('"Ellipsis"', "missing")


def _expect(
    response: httpx.Response, status: int, code: str | None = None, param: str | None = None
) -> dict[str, str | None]:
    assert response.status_code == status, response.text[:500]
    error = error_of(response)
    assert (error["code"], error["param"]) == (code, param), error
    return error


# ── Bodies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _chat_with(value: str) -> str:
    return json.dumps(chat(_MODEL, temperature="VALUE")).replace('"VALUE"', value)


_NO_JSON = {
    "empty": b"",
    "blank": b" \n",
    "text": CANARY.encode(),
    "open": b'{"model": "' + CANARY.encode(),
    "cut": _chat_with("1").encode()[:-1],
    "two": (_chat_with("1") + _chat_with("1")).encode(),
    "single-quotes": b"{'model': 'MODEL'}",
    "trailing-comma": b'{"model": "MODEL",}',
    "not-utf-8": b'{"model": "MODEL", "user": "\xff\xfe"}',
    "control-character": b'{"model": "MODEL", "user": "\x01"}',
    "nan": _chat_with("NaN").encode(),
    "infinity": _chat_with("Infinity").encode(),
    "minus-infinity": _chat_with("-Infinity").encode(),
    "nan-inside": _chat_with("1").replace('"max_tokens": 1', f'"{CANARY}": {{"a": [NaN]}}').encode(),
    "deep-array": b"[" * _DEEP + b"]" * _DEEP,
    "deep-object": b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
    "deep-inside": _chat_with("[" * _DEEP + "]" * _DEEP).encode(),
    "deep-before-model": b'{"a":' + b"[" * _DEEP + b"]" * _DEEP + b', "model": "MODEL"}',
    "deep-and-cut": b"[" * _DEEP,
}


@pytest.mark.parametrize("name", _NO_JSON)
def test_no_json(service: Service, chat_model: str, name: str) -> None:
    body = _NO_JSON[name].replace(_MODEL.encode(), chat_model.encode())
    _expect(service.post(_CHAT, content=body, headers={"Content-Type": "application/json"}), 400, "invalid_json")


@pytest.mark.parametrize("path", JSON_PATHS)
def test_no_json_anywhere(service: Service, path: str) -> None:
    response = service.post(path, content=f'{{"{CANARY}": '.encode(), headers={"Content-Type": "application/json"})
    _expect(response, 400, "invalid_json")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_names_of_numbers_may_stand_in_a_text(service: Service, chat_model: str, value: str) -> None:
    messages = [{"role": "user", "content": f"{value}, [{value}]: {value}"}]
    assert service.post(_CHAT, json=chat(chat_model, messages=messages)).status_code == 200


@pytest.mark.parametrize("body", [[], [CANARY], CANARY, 5, None, True])
def test_no_object(service: Service, body: object) -> None:
    content = json.dumps(body).encode()
    response = service.post(_CHAT, content=content, headers={"Content-Type": "application/json"})
    _expect(response, 400, None, "model")


@pytest.mark.parametrize("model", [..., None, 5, True, [CANARY], {CANARY: CANARY}])
@pytest.mark.parametrize("path", JSON_PATHS[:2])
def test_no_model(service: Service, path: str, model: object) -> None:
    body = {"prompt": CANARY, "messages": _TEXT} | ({} if model is ... else {"model": model})
    _expect(service.post(path, json=body), 400, None, "model")


@pytest.mark.parametrize("path", JSON_PATHS)
def test_unknown_model(service: Service, path: str) -> None:
    body = {"model": CANARY, "messages": _TEXT, "prompt": CANARY, "input": CANARY, "max_tokens": 1}
    _expect(service.post(path, json=body), 404, "model_not_found", "model")


@pytest.mark.parametrize(
    "name",
    ["", " ", "/", "../" + CANARY, CANARY * 5000, f"{CANARY}\n\x00", f"é☃{CANARY}", f'{CANARY}"}}'],
    ids=["empty", "space", "slash", "up", "long", "control", "letters", "quote"],
)
def test_strange_model(service: Service, name: str) -> None:
    body = json.dumps(chat(name)).encode()
    response = service.post(_CHAT, content=body, headers={"Content-Type": "application/json"})
    _expect(response, 404, "model_not_found", "model")


def test_half_a_letter_for_a_model(service: Service) -> None:
    # Some take a lone surrogate for JSON, some don't; the standard leaves it open.
    content = json.dumps(chat("\ud800")).encode()
    response = service.post(_CHAT, content=content, headers={"Content-Type": "application/json"})
    assert error_of(response)["code"] in ("model_not_found", "invalid_json")


@pytest.mark.parametrize("path", FORM_PATHS)
def test_form(service: Service, chat_model: str, path: str) -> None:
    file = {"file": (CANARY, b"RIFF", "audio/wav")}
    _expect(service.post(path, data={"model": CANARY}, files=file), 404, "model_not_found", "model")
    _expect(service.post(path, data={CANARY: CANARY}, files=file), 400, None, "model")
    # A model that chats may listen too, but not to this.
    response = service.post(path, data={"model": chat_model}, files=file)
    assert response.status_code == 400 or error_of(response)["code"] == "unknown_url"


_MEDIA_TYPES = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", CANARY]


@pytest.mark.parametrize("media_type", [None, *_MEDIA_TYPES])
@pytest.mark.parametrize("path", JSON_PATHS[:3])
def test_wrong_media_type(service: Service, chat_model: str, path: str, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    response = service.post(path, content=json.dumps(chat(chat_model)).encode(), headers=headers)
    _expect(response, 415, "unsupported_media_type")


@pytest.mark.parametrize("path", FORM_PATHS)
def test_form_as_json(service: Service, chat_model: str, path: str) -> None:
    _expect(service.post(path, json={"model": chat_model, "file": CANARY}), 415, "unsupported_media_type")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;"])
def test_right_media_type(service: Service, chat_model: str, media_type: str) -> None:
    body = json.dumps(chat(chat_model)).encode()
    assert service.post(_CHAT, content=body, headers={"Content-Type": media_type}).status_code == 200


# ── Sizes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _padded(model: str, size: int) -> bytes:
    head, tail = json.dumps(chat(model, messages=[{"role": "user", "content": "PAD"}])).encode().split(b"PAD")
    word = f"{CANARY} ".encode()
    padding = word * ((size - len(head) - len(tail)) // len(word) + 1)
    return head + padding[: size - len(head) - len(tail)] + tail


def test_ten_megabytes(service: Service, chat_model: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = service.post(_CHAT, content=_padded(chat_model, 10_000_000), headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (400, "context_length_exceeded")


def test_as_large_as_may_be(service: Service, chat_model: str) -> None:
    headers = {"Content-Type": "application/json"}
    response = service.post(_CHAT, content=_padded(chat_model, BODY_LIMIT), headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large(service: Service, chat_model: str, chunked: bool) -> None:
    body = _padded(chat_model, BODY_LIMIT + 2**20)
    content = iter([body[i : i + 2**20] for i in range(0, len(body), 2**20)]) if chunked else body
    response = service.post(_CHAT, content=content, headers={"Content-Type": "application/json"})
    _expect(response, 413, "request_too_large")


def test_too_long_an_answer(service: Service, chat_model: str, context_length: int) -> None:
    for path, limit in ((_CHAT, "max_tokens"), (_CHAT, "max_completion_tokens"), ("/v1/completions", "max_tokens")):
        # With the prompt it is too much, and by itself.
        for tokens in (context_length, context_length + 1, 2**40):
            response = service.post(path, json=chat(chat_model, prompt=CANARY, max_tokens=...) | {limit: tokens})
            assert response.status_code == 400
            error = error_of(response)
            assert error["code"] == "context_length_exceeded" or error["param"] == limit, (path, tokens, error)


# ── Parameters ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _tool(**changes: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": CANARY, "parameters": {"type": "object"}} | changes}


_NO_COUNTS: tuple[object, ...] = (0, -1, "many", 1.5, [CANARY], {CANARY: CANARY})
_NO_STOPS: tuple[object, ...] = (5, [5], {CANARY: CANARY})
_NO_TOOLS: tuple[object, ...] = (CANARY, [CANARY], [{}], [{"type": "function", CANARY: CANARY}])
_NO_MESSAGES: tuple[object, ...] = (..., None, "hello", CANARY, [], [5], [CANARY], [[]], [{}], {CANARY: CANARY})
_WRONG = [
    *(Wrong({"max_tokens": value}, "max_tokens") for value in _NO_COUNTS),
    Wrong({"max_tokens": ..., "max_completion_tokens": CANARY}, "max_completion_tokens"),
    # The engine knows but one of the two names by then.
    Wrong({"max_tokens": ..., "max_completion_tokens": 0}, "max_"),
    *(Wrong({"temperature": value}, "temperature") for value in ("hot", 5, -1, [CANARY])),
    *(Wrong({"top_p": value}, "top_p") for value in (2, 0, -1, CANARY)),
    *(Wrong({"n": value}, "n") for value in (0, -1, CANARY)),
    *(Wrong({"frequency_penalty": value}, "frequency_penalty") for value in (3, -3, CANARY)),
    *(Wrong({"presence_penalty": value}, "presence_penalty") for value in (3, -3, CANARY)),
    *(Wrong({"stream": value}, "stream") for value in ("maybe", 5, [CANARY])),
    *(Wrong({"stop": value}, "stop") for value in _NO_STOPS),
    *(Wrong({"seed": value}, "seed") for value in (CANARY, 2**70)),
    *(Wrong({"logprobs": value}, "logprobs") for value in (CANARY, 5)),
    *(Wrong({"logprobs": True, "top_logprobs": value}, "top_logprobs") for value in (CANARY, -5, 1000)),
    Wrong({"top_logprobs": 2}, "top_logprobs"),
    *(Wrong({"logit_bias": value}, "logit_bias") for value in (CANARY, {CANARY: 1}, {"5": CANARY})),
    *(Wrong({"stream": True, "stream_options": value}, "stream_options") for value in (CANARY, [CANARY])),
    Wrong({"stream_options": {"include_usage": True}}, "stream_options"),
    *(Wrong({"response_format": value}, "response_format") for value in (CANARY, {}, {"type": CANARY})),
    Wrong({"response_format": {"type": "json_schema"}}, "response_format"),
    Wrong({"response_format": {"type": "json_schema", "json_schema": CANARY}}, "response_format"),
    *(Wrong({"tools": value}, "tools") for value in _NO_TOOLS),
    Wrong({"tools": [_tool(name=5)]}, "tools"),
    Wrong({"tools": [_tool()], "tool_choice": {"type": "function"}}, "tool_choice"),
    Wrong({"tools": [_tool()], "tool_choice": {"type": "function", "function": {"name": CANARY * 2}}}, "tool_choice"),
    Wrong({"tools": [_tool()], "tool_choice": CANARY}, "tool_choice"),
    Wrong({"tools": ..., "tool_choice": "required"}, "tool_choice"),
    *(Wrong({"messages": value}, "messages") for value in _NO_MESSAGES),
    *(Wrong({"messages": [{"role": role, "content": CANARY}]}, "messages") for role in (CANARY, 5, None, "")),
    *(Wrong({"messages": [{"role": "user", "content": content}]}, "messages") for content in (5, {CANARY: CANARY})),
    Wrong({"messages": [{"role": "user", "content": [{"type": CANARY, CANARY: CANARY}]}]}, "messages"),
    Wrong({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages"),
    *(
        Wrong({"prompt": value}, "prompt", "/v1/completions")
        for value in (..., None, [], {CANARY: CANARY}, [CANARY, 5])
    ),
    *(Wrong({"prompt": CANARY, "max_tokens": value}, "max_tokens", "/v1/completions") for value in (-1, CANARY)),
    *(Wrong({"prompt": CANARY, "logprobs": value}, "logprobs", "/v1/completions") for value in (-5, 1000, CANARY)),
    Wrong({"prompt": CANARY, "temperature": 5}, "temperature", "/v1/completions"),
    *(Wrong({"input": value}, "input", "/v1/responses") for value in (..., None, 5, [CANARY], [{CANARY: CANARY}])),
    *(
        Wrong({"input": CANARY, "max_output_tokens": value}, "max_output_tokens", "/v1/responses")
        for value in (-1, CANARY)
    ),
    Wrong({"input": CANARY, "temperature": 5}, "temperature", "/v1/responses"),
    *(Wrong({"max_tokens": value}, "max_tokens", "/v1/messages") for value in (..., 0, -1, CANARY)),
    *(Wrong({"messages": value}, "messages", "/v1/messages") for value in (..., [], CANARY, [CANARY])),
    Wrong({"messages": [{"role": CANARY, "content": CANARY}]}, "messages", "/v1/messages"),
    *(Wrong({"messages": value}, "messages", "/v1/messages/count_tokens") for value in (..., CANARY)),
    *(Wrong({"prompt": value, "messages": ...}, "prompt", "/tokenize") for value in (5, [CANARY])),
    *(Wrong({"tokens": value}, "tokens", "/detokenize") for value in (..., CANARY, [CANARY], 5)),
]


@pytest.mark.parametrize("wrong", _WRONG, ids=str)
def test_wrong_parameter(service: Service, chat_model: str, wrong: Wrong) -> None:
    if wrong.path in ("/v1/completions", "/v1/responses"):
        base = {"model": chat_model, "user": CANARY}
    else:
        base = chat(chat_model, user=CANARY)
    body = {name: value for name, value in (base | wrong.changes).items() if value is not ...}
    response = service.post(wrong.path, json=body)
    assert response.status_code == 400, response.text[:500]
    error = error_of(response)
    assert (error["param"] or "").startswith(wrong.param), error


@pytest.mark.parametrize("changes", [{"input": ...}, {"input": {CANARY: CANARY}}, {"encoding_format": CANARY}], ids=str)
def test_wrong_parameter_of_embeddings(service: Service, embedding_model: str, changes: dict[str, Any]) -> None:
    body = {"model": embedding_model, "input": CANARY} | changes
    response = service.post("/v1/embeddings", json={name: value for name, value in body.items() if value is not ...})
    assert response.status_code == 400
    # Without an input it could be one of two kinds of request.
    assert error_of(response)["param"]


@pytest.mark.parametrize("path", JSON_PATHS)
def test_nothing_but_a_model(service: Service, chat_model: str, path: str) -> None:
    response = service.post(path, json={"model": chat_model, CANARY: CANARY})
    assert response.status_code == 400 or error_of(response)["code"] == "unknown_url"


def test_unknown_parameter(service: Service, chat_model: str) -> None:
    extra = {CANARY: {CANARY: [CANARY]}, "user": CANARY, "metadata": {CANARY: CANARY}}
    assert service.post(_CHAT, json=chat(chat_model, **extra)).status_code == 200
    assert service.post("/v1/completions", json=chat(chat_model, prompt=CANARY, **extra)).status_code == 200


def test_wrong_stream_is_no_stream(service: Service, chat_model: str) -> None:
    for body in (chat(chat_model, stream=True, max_tokens=0), chat(CANARY, stream=True)):
        response = service.post(_CHAT, json=body, headers={"Accept": "text/event-stream"})
        assert response.status_code in (400, 404)


# ── Routes and methods ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize("path", ["/", "/v1", f"/v1/{CANARY}", f"/{CANARY}/v1/models", "/v1/chat"])
def test_unknown_url(service: Service, method: str, path: str) -> None:
    content = b"{}" if method in ("POST", "PUT", "PATCH") else None
    response = service.request(method, path, content=content, headers={"Content-Type": "application/json"})
    _expect(response, 404, "unknown_url")


# What an engine, Ray and FastAPI have of their own. Only asked for: some of it would steer an engine.
_INSIDE = [
    *(
        "/metrics",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/version",
        "/ping",
        "/load",
        "/server_info",
        "/sleep",
        "/wake_up",
    ),
    *(
        "/wake_up",
        "/reset_prefix_cache",
        "/collective_rpc",
        "/invocations",
        "/inference/v1/generate",
        "/abort_requests",
    ),
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/is_sleeping", "/scale_elastic_ep", "/nginx_status"),
    *("/.env", "/.git/config", "/v1/../metrics", "/v1/%2e%2e/metrics", "/v1/chat/completions/", "/v1/models.json"),
]


@pytest.mark.parametrize("path", _INSIDE)
def test_the_inside_is_no_url(service: Service, path: str) -> None:
    request = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {service.key}\r\nConnection: close\r\n\r\n"
    )
    answer = service.raw(request.encode(), path=path)
    assert (answer.status, error_of(answer)["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("method", [method for method in _METHODS if method != "POST"])
@pytest.mark.parametrize("path", [*JSON_PATHS, *FORM_PATHS])
def test_wrong_method(service: Service, method: str, path: str) -> None:
    response = service.request(method, path)
    _expect(response, 405, "method_not_allowed")
    assert "POST" in response.headers["allow"]


@pytest.mark.parametrize("method", [method for method in _METHODS if method != "GET"])
@pytest.mark.parametrize("path", GET_PATHS)
def test_wrong_method_to_read(service: Service, method: str, path: str) -> None:
    response = service.request(method, path, content=b"{}" if method != "OPTIONS" else None)
    _expect(response, 405, "method_not_allowed")
    assert "GET" in response.headers["allow"]


def test_a_model_can_not_be_deleted(service: Service, chat_model: str) -> None:
    _expect(service.request("DELETE", f"/v1/models/{chat_model}"), 405, "method_not_allowed")


@pytest.mark.parametrize("path", JSON_PATHS[:2])
def test_head_where_only_post_goes(service: Service, path: str) -> None:
    response = service.request("HEAD", path)
    assert (response.status_code, response.content) == (405, b"")


@pytest.mark.parametrize("name", [CANARY, f"{CANARY}/{CANARY}", "%C3%A9", "a%20b", f"{CANARY}?{CANARY}"])
def test_unknown_model_card(service: Service, name: str) -> None:
    _expect(service.get(f"/v1/models/{name}"), 404, "model_not_found", "model")


@pytest.mark.parametrize("name", ["%00", "..%2f", "%2e%2e/%2e%2e/metrics", "%"])
def test_strange_model_card(service: Service, name: str) -> None:
    # A proxy may find no model behind it, no URL, or no sense.
    assert service.get(f"/v1/models/{name}").status_code in (400, 404)


# ── HTTP itself ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _head(service: Service, request_line: str, *headers: str) -> bytes:
    lines = [request_line, f"Authorization: Bearer {service.key}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_http_1_0(service: Service, chat_model: str) -> None:
    assert service.raw(_head(service, "GET /health HTTP/1.0")).status == 200
    body = json.dumps(chat(chat_model, stream=True)).encode()
    headers = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    answer = service.raw(_head(service, f"POST {_CHAT} HTTP/1.0", *headers) + body, method="POST", path=_CHAT)
    assert answer.status == 200


def test_chunked_body(service: Service, chat_model: str) -> None:
    body = json.dumps(chat(chat_model)).encode()
    content = iter([body[:1], body[1:20], body[20:]])
    response = service.post(_CHAT, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 200


def test_expect_continue(service: Service, chat_model: str) -> None:
    body = json.dumps(chat(chat_model)).encode()
    headers = ("Host: x", "Connection: close", "Expect: 100-continue", f"Content-Length: {len(body)}")
    head = _head(service, f"POST {_CHAT} HTTP/1.1", *headers, "Content-Type: application/json")
    assert service.raw(head + body, method="POST", path=_CHAT).status == 200


def test_no_content_type(service: Service, chat_model: str) -> None:
    body = json.dumps(chat(chat_model)).encode()
    head = _head(service, f"POST {_CHAT} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}")
    answer = service.raw(head + body, method="POST", path=_CHAT)
    assert (answer.status, error_of(answer)["code"]) == (415, "unsupported_media_type")


def test_no_body(service: Service) -> None:
    head = _head(service, f"POST {_CHAT} HTTP/1.1", "Host: x", "Connection: close", "Content-Type: application/json")
    answer = service.raw(head, method="POST", path=_CHAT)
    assert (answer.status, error_of(answer)["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("request_line", "headers"),
    [
        ("GET /v1/models HTTP/1.1", ("Connection: close",)),
        ("GET /v1/models HTTP/1.1", ("Host: x", "Connection: close", f"X-{CANARY}: {'x' * 40_000}")),
        (f"GET /v1/{CANARY * 3000} HTTP/1.1", ("Host: x", "Connection: close")),
        (f"GET /{CANARY} {CANARY} HTTP/1.1", ("Host: x", "Connection: close")),
        ("GET /v1/models HTTP/1.1", ("Host: x", "Connection: close", f"{CANARY} {CANARY}")),
        (f"{CANARY} / HTTP/1.1", ("Host: x", "Connection: close")),
        (f"POST {_CHAT} HTTP/1.1", ("Host: x", "Connection: close", f"Content-Length: {CANARY}")),
        (f"POST {_CHAT} HTTP/1.1", ("Host: x", "Connection: close", f"Transfer-Encoding: {CANARY}")),
    ],
    ids=["no-host", "long-header", "long-url", "space", "no-header", "method", "length", "encoding"],
)
def test_broken_http(service: Service, behind_nginx: bool, request_line: str, headers: tuple[str, ...]) -> None:
    if not behind_nginx:
        pytest.skip("what is no HTTP gets HAProxy's own page on Ray Serve's port, whose configuration is Ray's")
    # Which of them it is depends on who reads it first; some are no fault to some.
    answer = service.raw(_head(service, request_line, *headers))
    assert answer.status in (200, 400, 404, 405, 413)


# ── Request ids and keys ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sent", ["a", "trace-1.2_3", "A" * 128])
def test_request_id_of_the_client(service: Service, chat_model: str, sent: str) -> None:
    headers = {"X-Request-Id": sent}
    answers = [
        service.get("/health", headers=headers),
        service.get("/v1/models", headers=headers),
        service.get(f"/{CANARY}", headers=headers),
        service.post(_CHAT, json=chat(chat_model), headers=headers),
        service.post(_CHAT, json=chat(chat_model, stream=True), headers=headers),
        service.post(_CHAT, json=chat(chat_model, max_tokens=0), headers=headers),
        service.post(_CHAT, json=chat(CANARY), headers=headers),
        service.post(_CHAT, content=b"{", headers=headers | {"Content-Type": "application/json"}),
        service.request("DELETE", _CHAT, headers=headers),
    ]
    assert [answer.headers["x-request-id"] for answer in answers] == [sent] * len(answers)


@pytest.mark.parametrize("sent", ["", "a b", "A" * 129, 'a"b', "a/b", "a,b", "é", "\u00a1", "<a>", "a;b", "a%0d"])
@pytest.mark.parametrize("path", ["/health", "/v1/models", f"/{CANARY}", _CHAT])
def test_request_id_of_our_own(service: Service, chat_model: str, path: str, sent: str) -> None:
    headers = {"X-Request-Id": sent.encode("latin-1")}
    if path == _CHAT:
        response = service.post(path, json=chat(chat_model), headers=headers)
    else:
        response = service.get(path, headers=headers)
    assert response.headers["x-request-id"] != sent


def test_fresh_request_ids_differ(service: Service) -> None:
    assert len({service.get(path).headers["x-request-id"] for path in HEALTH_PATHS * 2}) == 6


@pytest.mark.parametrize("key", [None, "", "Bearer", f"Bearer {CANARY}", f"Basic {CANARY}"])
def test_key(service: Service, chat_model: str, key: str | None) -> None:
    asked = service.http.build_request("POST", service.url + _CHAT, json=chat(chat_model))
    del asked.headers["authorization"]
    if key is not None:
        asked.headers["authorization"] = key
    response = service.http.send(asked)
    if response.status_code == 200:
        pytest.skip("this service wants no key")
    _expect(response, 401, "invalid_api_key")
    # Nobody needs a key to know that it lives.
    assert service.http.get("/health/live", headers={"Authorization": ""}).status_code == 200
