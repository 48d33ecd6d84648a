"""What the service can do, by plain HTTP: every path, plain and streamed, and the shapes of the answers.

Only the shapes: what a model says is its own affair. Every answer is checked against the contract on its way.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from contract import (
    CANARY,
    FORM_PATHS,
    GET_PATHS,
    HEALTH_PATHS,
    JSON_PATHS,
    answer_of,
    chat,
    check,
    error_of,
    events,
    strict_json,
)

if TYPE_CHECKING:
    import httpx
    from contract import Service

_CHAT = "/v1/chat/completions"
_COLOURS = ["red", "blue"]
_TOOL = {
    "type": "function",
    "function": {
        "name": "paint",
        "description": "Paint the wall.",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"type": "string", "enum": _COLOURS}},
            "required": ["colour"],
            "additionalProperties": False,
        },
    },
}


def _ok(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text[:500]
    answer: dict[str, Any] = response.json()
    return answer


def _stream(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text[:500]
    assert response.headers["content-type"].startswith("text/event-stream")
    data = [strict_json(event.data) for event in events(response.content) if event.data != "[DONE]"]
    assert all("error" not in event or event["error"] is None for event in data)
    return data


def _check_usage(usage: dict[str, Any], completion_tokens: int) -> None:
    assert usage["prompt_tokens"] > 0
    assert 0 < usage["completion_tokens"] <= completion_tokens
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


# ── Health and models ───────────────────────────────────────────────────────────────────────────────────────────────


def test_health(service: Service) -> None:
    health = _ok(service.get("/health"))
    assert health["status"] in ("ok", "degraded")
    models: dict[str, str] = health["models"]
    assert models
    assert (health["status"] == "ok") == all(state == "ok" for state in models.values())


def test_health_live(service: Service) -> None:
    assert _ok(service.get("/health/live"))["status"] == "ok"


def test_health_ready(service: Service) -> None:
    response = service.get("/health/ready")
    assert response.status_code in (200, 503)
    states = response.json()["models"].values()
    assert (response.status_code == 200) == all(state == "ok" for state in states)


def test_health_is_quick(service: Service) -> None:
    for path in HEALTH_PATHS:
        start = time.monotonic()
        service.http.get(path)
        assert time.monotonic() - start < 2


@pytest.mark.parametrize("path", GET_PATHS)
def test_head(service: Service, path: str) -> None:
    response = service.request("HEAD", path)
    assert response.status_code == service.http.get(path).status_code
    assert response.content == b""
    assert response.headers["content-type"].startswith("application/json")


def test_models(service: Service) -> None:
    models = _ok(service.get("/v1/models"))
    assert models["object"] == "list"
    names = [model["id"] for model in models["data"]]
    assert names
    assert len(set(names)) == len(names)
    for model in models["data"]:
        assert (model["object"], model["owned_by"]) == ("model", "vllm")
        assert 0 < model["created"] <= time.time() + 60


def test_models_one_by_one(service: Service) -> None:
    for model in _ok(service.get("/v1/models"))["data"]:
        assert _ok(service.get(f"/v1/models/{model['id']}"))["id"] == model["id"]
        assert _ok(service.get(f"/v1/models/{model['id'].replace('/', '%2F')}"))["id"] == model["id"]


def test_models_are_the_healthy_ones(service: Service) -> None:
    health = _ok(service.get("/health"))["models"]
    listed = set(service.models())
    assert {name for name, state in health.items() if state == "ok"} <= listed
    assert not {name for name, state in health.items() if state != "ok"} & listed


def test_every_model_answers(service: Service) -> None:
    calls = [(_CHAT, {}), ("/v1/embeddings", {"input": "Hello"}), ("/v1/completions", {"prompt": "Hello"})]
    for model in service.models():
        responses = [service.post(path, json=chat(model, **more)) for path, more in calls]
        answers = [response.json() for response in responses if response.status_code == 200]
        if answers:
            # By an alias, it is the model itself that answers.
            assert {answer["model"] for answer in answers} <= {model, _ok(service.get(f"/v1/models/{model}"))["root"]}
        else:
            # It has another task, and says so.
            assert all(error_of(response)["code"] != "model_not_found" for response in responses)


def test_openapi(service: Service) -> None:
    document = _ok(service.get("/v1/openapi.json"))
    assert document["openapi"].startswith("3.")
    assert document["info"]["title"]
    assert document["info"]["version"]
    paths = {re.sub(r"{\w+}", "{}", path): operations for path, operations in document["paths"].items()}
    # Of the paths that belong to models, those that some model here has.
    assert {*GET_PATHS, "/v1/models/{}"} < set(paths) <= {*GET_PATHS, *JSON_PATHS, *FORM_PATHS, "/v1/models/{}"}
    for path, operations in paths.items():
        assert set(operations) & {"get", "post"} == {"post" if path in JSON_PATHS + FORM_PATHS else "get"}
        if "post" in operations:
            kind = "multipart/form-data" if path in FORM_PATHS else "application/json"
            assert kind in operations["post"]["requestBody"]["content"]
    for path in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        there = document
        for part in path.split("/"):
            there = there[part]


# ── Chat ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_chat(service: Service, chat_model: str) -> None:
    answer = _ok(service.post(_CHAT, json=chat(chat_model, max_tokens=4)))
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", chat_model)
    (choice,) = answer["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert choice["finish_reason"] in ("stop", "length")
    _check_usage(answer["usage"], 4)


def test_every_parameter_of_the_guide(service: Service, chat_model: str) -> None:
    messages = [{"role": role, "content": "Hello"} for role in ("system", "user", "assistant", "user")]
    body = chat(
        chat_model,
        messages=messages,
        stream=False,
        temperature=2,
        max_tokens=2,
        top_p=0.5,
        frequency_penalty=-2.0,
        presence_penalty=2.0,
    )
    _ok(service.post(_CHAT, json=body))
    _ok(service.post(_CHAT, json=chat(chat_model, temperature=0, top_p=1, frequency_penalty=0, presence_penalty=0)))


def test_chat_streamed(service: Service, chat_model: str) -> None:
    chunks = _stream(service.post(_CHAT, json=chat(chat_model, max_tokens=4, stream=True)))
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("chat.completion.chunk", chat_model)}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert all(isinstance(delta.get("content", ""), str | None) for delta in deltas)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert [reason for reason in reasons if reason] == [reasons[-1]]
    assert reasons[-1] in ("stop", "length")


def test_stream_as_plain(service: Service, chat_model: str) -> None:
    body = chat(chat_model, max_tokens=8, temperature=0, seed=1)
    plain = _ok(service.post(_CHAT, json=body))["choices"][0]["message"]["content"]
    chunks = _stream(service.post(_CHAT, json=body | {"stream": True}))
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == plain


@pytest.mark.parametrize("path", [_CHAT, "/v1/completions"])
def test_include_usage(service: Service, chat_model: str, path: str) -> None:
    body = chat(chat_model, prompt="Hello", max_tokens=3, stream=True, stream_options={"include_usage": True})
    *chunks, last = _stream(service.post(path, json=body))
    assert all(chunk.get("usage") is None for chunk in chunks)
    assert last["choices"] == []
    _check_usage(last["usage"], 3)


@pytest.mark.parametrize("path", [_CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
def test_headers_of_a_stream(service: Service, chat_model: str, behind_nginx: bool, path: str) -> None:
    body = chat(chat_model, prompt="Hello", max_tokens=2, stream=True)
    if path == "/v1/responses":
        body = {"model": chat_model, "input": "Hello", "max_output_tokens": 2, "stream": True}
    response = service.post(path, json=body, headers={"Accept-Encoding": "gzip, deflate, br, zstd"})
    assert _stream(response)
    assert "content-encoding" not in response.headers
    assert "content-length" not in response.headers
    if behind_nginx:
        assert response.headers["x-accel-buffering"] == "no"


def test_stream_is_not_buffered(service: Service, chat_model: str) -> None:
    body = chat(chat_model, max_tokens=64, temperature=0, stream=True, ignore_eos=True)
    seen = []
    # On a busy machine the pieces may come late and together; a buffer has them together every time.
    for _ in range(5):
        start = time.monotonic()
        with service.http.stream("POST", _CHAT, json=body) as response:
            arrived = [time.monotonic() - start for _ in response.iter_raw()]
        seen.append((len(arrived), arrived[0], arrived[-1]))
        if len(arrived) > 8 and arrived[0] < arrived[-1] / 2:
            return
    pytest.fail(f"pieces, seconds to the first, to the last: {seen}")


def test_n(service: Service, chat_model: str) -> None:
    answer = _ok(service.post(_CHAT, json=chat(chat_model, n=3)))
    assert sorted(choice["index"] for choice in answer["choices"]) == [0, 1, 2]
    chunks = _stream(service.post(_CHAT, json=chat(chat_model, n=2, stream=True)))
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {0, 1}


def test_logprobs(service: Service, chat_model: str) -> None:
    body = chat(chat_model, max_tokens=2, logprobs=True, top_logprobs=2)
    tokens = _ok(service.post(_CHAT, json=body))["choices"][0]["logprobs"]["content"]
    assert tokens
    for token in tokens:
        assert token["logprob"] <= 0
        assert bytes(token["bytes"]).decode("utf-8", "replace")
        assert 2 <= len(token["top_logprobs"]) <= 3
    chunks = _stream(service.post(_CHAT, json=body | {"stream": True}))
    assert any((choice["logprobs"] or {}).get("content") for chunk in chunks for choice in chunk["choices"])


def test_seed(service: Service, chat_model: str) -> None:
    body = chat(chat_model, max_tokens=8, temperature=1, seed=20)
    contents = {_ok(service.post(_CHAT, json=body))["choices"][0]["message"]["content"] for _ in range(3)}
    assert len(contents) == 1


@pytest.mark.parametrize("as_list", [False, True])
def test_stop(service: Service, chat_model: str, as_list: bool) -> None:
    body = chat(chat_model, max_tokens=8, temperature=0)
    whole = _ok(service.post(_CHAT, json=body))["choices"][0]["message"]["content"]
    words = whole.split()
    if len(words) < 3 or words[0] == words[1]:
        pytest.skip("the model says too little to be stopped")
    stop = [words[1], CANARY] if as_list else words[1]
    (choice,) = _ok(service.post(_CHAT, json=body | {"stop": stop}))["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == whole[: whole.index(words[1])]


def test_max_completion_tokens(service: Service, chat_model: str) -> None:
    body = chat(chat_model, max_tokens=..., max_completion_tokens=2)
    _check_usage(_ok(service.post(_CHAT, json=body))["usage"], 2)


def test_json_schema(service: Service, chat_model: str) -> None:
    schema = {"type": "string", "enum": _COLOURS}
    form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": schema, "strict": True}}
    body = chat(chat_model, max_tokens=16, response_format=form)
    assert json.loads(_ok(service.post(_CHAT, json=body))["choices"][0]["message"]["content"]) in _COLOURS
    chunks = _stream(service.post(_CHAT, json=body | {"stream": True}))
    assert json.loads("".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)) in _COLOURS


def test_json_object(service: Service, chat_model: str) -> None:
    body = chat(chat_model, max_tokens=16, response_format={"type": "json_object"})
    (choice,) = _ok(service.post(_CHAT, json=body))["choices"]
    assert choice["message"]["content"].lstrip().startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)


def _tools(service: Service, model: str, tool_choice: object, **more: object) -> httpx.Response:
    body = chat(model, max_tokens=48, temperature=0, tools=[_TOOL], tool_choice=tool_choice, **more)
    response = service.post(_CHAT, json=body)
    if response.status_code == 400:
        assert (error_of(response)["param"] or "").startswith("tool"), response.text
        pytest.skip("the operator has set no tool parser for this model")
    return response


def _check_call(call: dict[str, Any], finish_reason: str) -> None:
    assert call["function"]["name"] == "paint"
    # An answer that was cut off at its last token is no JSON yet.
    if finish_reason != "length":
        assert json.loads(call["function"]["arguments"])["colour"] in _COLOURS


@pytest.mark.parametrize("tool_choice", [{"type": "function", "function": {"name": "paint"}}, "required"], ids=str)
def test_tools(service: Service, chat_model: str, tool_choice: object) -> None:
    (choice,) = _ok(_tools(service, chat_model, tool_choice))["choices"]
    calls = choice["message"].get("tool_calls") or ()
    for call in calls:
        assert (call["type"], bool(call["id"])) == ("function", True)
        _check_call(call, choice["finish_reason"])
    # What was cut off before the call was whole is none.
    assert calls or choice["finish_reason"] == "length"
    assert choice["finish_reason"] in ("stop", "tool_calls", "length")


def test_tools_streamed(service: Service, chat_model: str) -> None:
    tool_choice = {"type": "function", "function": {"name": "paint"}}
    chunks = _stream(_tools(service, chat_model, tool_choice, stream=True))
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls") or ()]
    arguments = "".join(call["function"].get("arguments") or "" for call in calls)
    name = "".join(call["function"].get("name") or "" for call in calls)
    _check_call({"function": {"name": name, "arguments": arguments}}, chunks[-1]["choices"][0]["finish_reason"])


@pytest.mark.parametrize("tool_choice", ["auto", "none"])
def test_tools_may_be_left_alone(service: Service, chat_model: str, tool_choice: str) -> None:
    (choice,) = _ok(_tools(service, chat_model, tool_choice))["choices"]
    assert isinstance(choice["message"]["content"], str) or choice["message"]["tool_calls"]


def test_tool_results_are_read(service: Service, chat_model: str) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "paint", "arguments": '{"colour": "red"}'}}
    messages = [
        {"role": "user", "content": "Paint it."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    _ok(service.post(_CHAT, json=chat(chat_model, messages=messages)))


def test_content_in_parts(service: Service, chat_model: str) -> None:
    content = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "you"}]
    _ok(service.post(_CHAT, json=chat(chat_model, messages=[{"role": "user", "content": content}])))


def test_any_letters(service: Service, chat_model: str) -> None:
    content = 'Grüße, 世界 🌍 \u200b\u0000 \\u0041 " \n\t </s> <|im_end|> {{x}} ${y}'
    messages = [{"role": "user", "content": content}]
    _ok(service.post(_CHAT, json=chat(chat_model, messages=messages)))
    # The same, every letter of it as it is.
    body = json.dumps(chat(chat_model, messages=messages), ensure_ascii=False).encode()
    _ok(service.post(_CHAT, content=body, headers={"Content-Type": "application/json"}))


def test_model_may_stand_anywhere(service: Service, chat_model: str) -> None:
    messages = [{"role": "user", "content": f'{{"model": "{CANARY}"}}, "model": "{CANARY}"'}]
    inside = {"metadata": {"model": CANARY}, "messages": messages, "max_tokens": 1}
    for body in ({"model": chat_model} | inside, inside | {"model": chat_model}):
        assert _ok(service.post(_CHAT, json=body))["model"] == chat_model
    escaped = json.dumps(inside)[:-1] + ', "m\\u006fdel": "' + "".join(f"\\u{ord(c):04x}" for c in chat_model) + '"}'
    response = service.post(_CHAT, content=escaped.encode(), headers={"Content-Type": "application/json"})
    assert _ok(response)["model"] == chat_model


# ── Completions, responses, messages ────────────────────────────────────────────────────────────────────────────────


def test_completions(service: Service, chat_model: str) -> None:
    body = {"model": chat_model, "prompt": "Hello", "max_tokens": 3, "logprobs": 1}
    answer = _ok(service.post("/v1/completions", json=body))
    assert (answer["object"], answer["model"]) == ("text_completion", chat_model)
    (choice,) = answer["choices"]
    assert isinstance(choice["text"], str)
    assert len(choice["logprobs"]["tokens"]) == answer["usage"]["completion_tokens"]
    _check_usage(answer["usage"], 3)


def test_completions_of_several(service: Service, chat_model: str) -> None:
    body = {"model": chat_model, "prompt": ["Hello", "Good"], "max_tokens": 1, "n": 2, "echo": True}
    choices = _ok(service.post("/v1/completions", json=body))["choices"]
    assert sorted(choice["index"] for choice in choices) == [0, 1, 2, 3]
    assert {choice["text"][:4] for choice in choices} == {"Hell", "Good"}


def test_completions_streamed(service: Service, chat_model: str) -> None:
    body = {"model": chat_model, "prompt": "Hello", "max_tokens": 3, "stream": True}
    chunks = _stream(service.post("/v1/completions", json=body))
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")


def test_responses(service: Service, chat_model: str) -> None:
    body = {"model": chat_model, "input": "Hello", "max_output_tokens": 3, "instructions": "Be brief.", "store": False}
    answer = _ok(service.post("/v1/responses", json=body))
    assert (answer["object"], answer["model"]) == ("response", chat_model)
    assert answer["status"] in ("completed", "incomplete")
    (message,) = (item for item in answer["output"] if item["type"] == "message")
    assert message["content"][0]["type"] == "output_text"
    assert 0 < answer["usage"]["output_tokens"] <= 3


def test_responses_streamed(service: Service, chat_model: str) -> None:
    message = {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
    body = {"model": chat_model, "input": [message], "max_output_tokens": 3, "stream": True}
    response = service.post("/v1/responses", json=body)
    found = _stream(response)
    assert [event.name for event in events(response.content) if event.name] == [event["type"] for event in found]
    assert found[0]["type"] == "response.created"
    assert found[-1]["type"] in ("response.completed", "response.incomplete")
    assert [event["sequence_number"] for event in found] == list(range(len(found)))


def test_messages(service: Service, chat_model: str) -> None:
    answer = _ok(service.post("/v1/messages", json=chat(chat_model, max_tokens=3, system="Be brief.")))
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", chat_model)
    assert {part["type"] for part in answer["content"]} <= {"text", "thinking"}
    assert answer["stop_reason"] in ("end_turn", "max_tokens")
    assert 0 < answer["usage"]["output_tokens"] <= 3


def test_messages_streamed(service: Service, chat_model: str) -> None:
    response = service.post("/v1/messages", json=chat(chat_model, max_tokens=3, stream=True))
    found = _stream(response)
    assert [event.name for event in events(response.content) if event.name] == [event["type"] for event in found]
    kinds = [event["type"] for event in found if event["type"] != "ping"]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert {"content_block_start", "content_block_delta", "content_block_stop", "message_delta"} <= set(kinds)


def test_messages_count_tokens(service: Service, chat_model: str) -> None:
    assert _ok(service.post("/v1/messages/count_tokens", json=chat(chat_model, max_tokens=...)))["input_tokens"] > 0


# ── Embeddings, tokens, the rest ────────────────────────────────────────────────────────────────────────────────────


def test_embeddings(service: Service, embedding_model: str) -> None:
    body = {"model": embedding_model, "input": ["Hello", "you"], "encoding_format": "float"}
    answer = _ok(service.post("/v1/embeddings", json=body))
    assert (answer["object"], answer["model"]) == ("list", embedding_model)
    assert [item["index"] for item in answer["data"]] == [0, 1]
    first, second = (item["embedding"] for item in answer["data"])
    assert len(first) == len(second) > 0
    assert all(isinstance(number, float) for number in first)
    assert answer["usage"]["total_tokens"] > 0


def test_embeddings_base64(service: Service, embedding_model: str) -> None:
    body = {"model": embedding_model, "input": "Hello", "encoding_format": "base64"}
    (item,) = _ok(service.post("/v1/embeddings", json=body))["data"]
    assert re.fullmatch(r"[A-Za-z0-9+/]+=*", item["embedding"])


def test_tokenize_and_back(service: Service, chat_model: str) -> None:
    text = "Hello you"
    tokens = _ok(service.post("/tokenize", json={"model": chat_model, "prompt": text, "add_special_tokens": False}))
    assert len(tokens["tokens"]) == tokens["count"] > 0
    back = _ok(service.post("/detokenize", json={"model": chat_model, "tokens": tokens["tokens"]}))
    assert back["prompt"] == text


def test_tokenize_a_chat(service: Service, chat_model: str) -> None:
    tokens = _ok(service.post("/tokenize", json=chat(chat_model, max_tokens=...)))
    usage = _ok(service.post(_CHAT, json=chat(chat_model)))["usage"]
    assert tokens["count"] == usage["prompt_tokens"]


@pytest.mark.parametrize("path", JSON_PATHS)
def test_every_path_is_somewhere(service: Service, chat_model: str, path: str) -> None:
    body = chat(chat_model, prompt="Hello", input="Hello", query="Hello", documents=["you"], tokens=[1])
    body |= {"text_1": "Hello", "text_2": "you", "queries": "Hello"}
    if path == "/v1/responses":
        body = {"model": chat_model, "input": "Hello", "max_output_tokens": 1}
    response = service.post(path, json=body)
    # A model that doesn't do this says so, and doesn't deny that it exists.
    assert response.status_code in (200, 400) or error_of(response)["code"] == "unknown_url", response.text[:500]


# ── Bodies beyond a proxy's buffers ─────────────────────────────────────────────────────────────────────────────────


def test_image_in_the_body(service: Service, chat_model: str) -> None:
    # No picture at all, so no model can look at it; but it must get there.
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2_000_000}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hello"}, image]}]
    response = service.post(_CHAT, json=chat(chat_model, messages=messages))
    assert response.status_code == 400
    assert error_of(response)["param"] != "model"


def test_prompt_beyond_the_context(service: Service, chat_model: str, context_length: int) -> None:
    words = 60_000
    if context_length > words:
        pytest.skip(f"a model that reads {context_length} tokens would read them all")
    messages = [{"role": "user", "content": "Hello " * words}]
    response = service.post(_CHAT, json=chat(chat_model, messages=messages))
    assert (response.status_code, error_of(response)["code"]) == (400, "context_length_exceeded")
    response = service.post("/v1/completions", json=chat(chat_model, prompt="Hello " * words))
    assert (response.status_code, error_of(response)["code"]) == (400, "context_length_exceeded")


def test_large_body_that_is_fine(service: Service, chat_model: str) -> None:
    for size in (1_000, 20_000, 300_000, 3_000_000):
        body = chat(chat_model, metadata={"padding": "x" * size})
        _ok(service.post(_CHAT, json=body))
        # The model's name behind everything else.
        del body["model"]
        _ok(service.post(_CHAT, json=body | {"model": chat_model}))


def test_one_connection_for_all(service: Service, chat_model: str) -> None:
    for body in (chat(chat_model), chat(CANARY), chat(chat_model, max_tokens=0), chat(chat_model, stream=True)) * 2:
        response = service.http.post(_CHAT, json=body)
        assert response.http_version == "HTTP/1.1"
        assert response.headers.get("connection", "").lower() != "close"
        check(answer_of(response))
