"""Requests that nobody thought of: whatever is sent, the answer is inside the contract and no 5xx."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract import CANARY, FORM_PATHS, GET_PATHS, JSON_PATHS, chat
from hypothesis import HealthCheck, configuration, example, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from contract import Service

configuration.set_hypothesis_home_dir(Path(__file__).parents[2] / ".cache" / "hypothesis")

# The same requests every time: a service in production is no place for surprises.
_BOUNDED = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

_TEXTS = st.one_of(
    st.just(CANARY),
    st.text(max_size=20).map(lambda text: CANARY + text),
    # Any text that UTF-8 can carry, and half a character as JSON can write it.
    st.text(max_size=40),
    st.sampled_from(["\ud800", "\x00", "NaN", "null", "../..", "<|im_end|>", "%s{0}{{}}", "'; --", "\u202e", "[DONE]"]),
)
_NUMBERS = st.one_of(
    st.integers(-3, 3), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.just(1e308), st.just(2**70)
)
_KEYS = st.one_of(st.just(CANARY), st.sampled_from(["type", "role", "content", "name", "text"]), st.text(max_size=10))
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)

_ROLES = st.sampled_from(["user", "assistant", "system", "developer", "tool", CANARY, "", 5, None])
_PARTS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": _TEXTS}),
    st.fixed_dictionaries({"type": st.sampled_from(["image_url", "input_audio", "file", CANARY]), CANARY: _JSON}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": _TEXTS})}),
    _JSON,
)
_MESSAGES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.just("user"), "content": _TEXTS}),
        st.fixed_dictionaries(
            {"role": _ROLES, "content": st.one_of(_TEXTS, st.lists(_PARTS, max_size=3), st.none())},
            optional={"name": _TEXTS, "tool_call_id": _TEXTS, "tool_calls": _JSON, CANARY: _JSON},
        ),
        _JSON,
    ),
    max_size=3,
)
_TOOLS = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(["function", CANARY]),
                "function": st.fixed_dictionaries(
                    {"name": _TEXTS}, optional={"parameters": _JSON, "description": _TEXTS, "strict": st.booleans()}
                ),
            }
        ),
        _JSON,
    ),
    max_size=2,
)
_FORMATS = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object", "json_schema", CANARY])}),
    st.fixed_dictionaries(
        {
            "type": st.just("json_schema"),
            "json_schema": st.fixed_dictionaries({"name": _TEXTS, "schema": _JSON}, optional={"strict": _JSON}),
        }
    ),
    _JSON,
)


def _or_wrong(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(right, right, right, _JSON)


# Whatever else is asked for, there is a limit to what the model may say: `null` would be none.
_FEW_TOKENS = st.one_of(st.integers(1, 3), st.sampled_from([0, -1, "2", 1.5, 2**40, CANARY, [], {CANARY: CANARY}]))
_OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "stream": _or_wrong(st.booleans()),
    "temperature": _or_wrong(st.floats(0, 2)),
    "top_p": _or_wrong(st.floats(0.1, 1)),
    "n": st.one_of(st.integers(-1, 2), st.sampled_from([CANARY, 1.5, []])),
    "stop": _or_wrong(st.lists(_TEXTS, max_size=3)),
    "seed": _or_wrong(st.integers(0, 100)),
    "user": _JSON,
    "logit_bias": _or_wrong(st.dictionaries(st.integers(0, 99).map(str), st.integers(-100, 100), max_size=2)),
    "frequency_penalty": _or_wrong(st.floats(-2, 2)),
    "presence_penalty": _or_wrong(st.floats(-2, 2)),
    "stream_options": _or_wrong(st.fixed_dictionaries({"include_usage": st.booleans()})),
    "metadata": _JSON,
    CANARY: _JSON,
}
_CHATS = st.fixed_dictionaries(
    {"messages": _or_wrong(_MESSAGES), "max_tokens": _FEW_TOKENS},
    optional=_OPTIONAL
    | {
        "logprobs": _or_wrong(st.booleans()),
        "top_logprobs": _or_wrong(st.integers(0, 3)),
        "tools": _or_wrong(_TOOLS),
        "tool_choice": _or_wrong(st.sampled_from(["auto", "none", "required", CANARY])),
        "response_format": _FORMATS,
    },
)
_PROMPTS = st.one_of(_TEXTS, st.lists(_TEXTS, max_size=2), st.lists(st.integers(0, 99), max_size=4))
_COMPLETIONS = st.fixed_dictionaries(
    {"prompt": _or_wrong(_PROMPTS), "max_tokens": _FEW_TOKENS},
    optional=_OPTIONAL | {"logprobs": _or_wrong(st.integers(0, 3)), "echo": _or_wrong(st.booleans())},
)
_EMBEDDINGS = st.fixed_dictionaries(
    {"input": _or_wrong(_PROMPTS)},
    optional={
        "encoding_format": _or_wrong(st.sampled_from(["float", "base64"])),
        "dimensions": _JSON,
        "user": _JSON,
        CANARY: _JSON,
    },
)


def _send(service: Service, path: str, body: object, **headers: str) -> None:
    # Half a character (a lone surrogate) is escaped, as JSON allows.
    content = body if isinstance(body, bytes) else json.dumps(body, allow_nan=True).encode()
    response = service.post(path, content=content, headers={"Content-Type": "application/json"} | headers)
    assert response.status_code < 500, response.text[:500]


@_BOUNDED
@given(body=_CHATS)
@example(body={"messages": [{"role": "user", "content": "\ud800"}], "max_tokens": 1})
@example(body={"messages": [{"role": "user", "content": "x", "tool_calls": [{CANARY: 5}]}], "max_tokens": 1})
def test_chat(service: Service, chat_model: str, body: dict[str, Any]) -> None:
    _send(service, "/v1/chat/completions", body | {"model": chat_model})


@_BOUNDED
@given(body=_COMPLETIONS)
@example(body={"prompt": [2**40], "max_tokens": 1})
@example(body={"prompt": "", "max_tokens": 1})
def test_completions(service: Service, chat_model: str, body: dict[str, Any]) -> None:
    _send(service, "/v1/completions", body | {"model": chat_model})


@_BOUNDED
@given(body=_EMBEDDINGS)
def test_embeddings(service: Service, embedding_model: str, body: dict[str, Any]) -> None:
    _send(service, "/v1/embeddings", body | {"model": embedding_model})


@_BOUNDED
@given(path=st.sampled_from(JSON_PATHS), body=_JSON | st.fixed_dictionaries({"model": _JSON}, optional={CANARY: _JSON}))
def test_any_json(service: Service, path: str, body: object) -> None:
    _send(service, path, body)


@_BOUNDED
@given(path=st.sampled_from(JSON_PATHS[3:] + JSON_PATHS[2:3]), body=st.dictionaries(_KEYS, _JSON, max_size=4))
def test_any_json_for_a_model(service: Service, chat_model: str, path: str, body: dict[str, Any]) -> None:
    few = {"max_tokens": 1, "max_output_tokens": 1}
    _send(service, path, {"messages": CANARY, "input": CANARY, "prompt": CANARY} | body | few | {"model": chat_model})


@_BOUNDED
@given(path=st.sampled_from((*JSON_PATHS, *FORM_PATHS)), body=st.binary(max_size=200))
def test_any_bytes(service: Service, path: str, body: bytes) -> None:
    _send(service, path, body)


@_BOUNDED
@given(at=st.integers(0, 10_000), cut=st.integers(0, 3), put=st.binary(max_size=3))
def test_a_chat_with_a_flaw(service: Service, chat_model: str, at: int, cut: int, put: bytes) -> None:
    body = json.dumps(chat(chat_model, stream=False, temperature=0.5)).encode()
    at %= len(body)
    flawed = body[:at] + put + body[at + cut :]
    # Not where it would ask for thousands of tokens.
    if b'"max_tokens": 1,' not in flawed:
        flawed = body[:at]
    _send(service, "/v1/chat/completions", flawed)


_HEADER_NAMES = st.sampled_from(
    [
        *("Content-Type", "Accept", "Accept-Encoding", "Accept-Language", "X-Request-Id", "User-Agent", "Origin"),
        *("X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "Referer", "Cookie", "Range", "If-None-Match", "TE"),
        *("Content-Encoding", "Content-Language", "Pragma", "X-HTTP-Method-Override", "X-Original-URL", "OpenAI-Beta"),
        *("traceparent", "X-Accel-Redirect", "X-Accel-Buffering", "x-llm-error-code", "serve_multiplexed_model_id"),
    ]
)
_HEADER_VALUES = st.one_of(
    st.just(CANARY),
    st.sampled_from(
        ["application/json", "text/event-stream", "gzip", "identity", "*/*", "bytes=0-5", "/v1/models", ""]
    ),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60).map(str.strip),
    st.text(st.characters(min_codepoint=0xA1, max_codepoint=0xFF), max_size=10),
)


@_BOUNDED
@given(headers=st.dictionaries(_HEADER_NAMES, _HEADER_VALUES, max_size=4), path=st.sampled_from(GET_PATHS))
@example(headers={"Range": "bytes=0-1"}, path="/v1/models")
@example(headers={"If-None-Match": "*"}, path="/health")
def test_any_headers(service: Service, chat_model: str, headers: dict[str, str], path: str) -> None:
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    assert service.get(path, headers=sent).status_code == 200
    sent = {"Content-Type": b"application/json"} | sent
    response = service.post("/v1/chat/completions", content=json.dumps(chat(chat_model)).encode(), headers=sent)
    assert response.status_code < 500


@_BOUNDED
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]),
    parts=st.lists(
        st.sampled_from(["v1", "v2", "m", "health", "models", "chat", "completions", "..", ".", "", "%00", "%2f", "%"])
        | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="?#%/\\"), max_size=8),
        max_size=4,
    ),
    query=st.sampled_from(["", f"?{CANARY}", "?a=b&a", "?%00", "?model=../x"]),
)
def test_any_url(service: Service, method: str, parts: list[str], query: str) -> None:
    # As written: the client's own library would tidy it up.
    path = "/" + "/".join(parts)
    head = f"{method} {path}{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {service.key}\r\n"
    answer = service.raw(f"{head}Content-Length: 0\r\n\r\n".encode(), method=method, path=path)
    assert answer.status < 500
