"""The API at every entrance, as a user on the control node sees it: through each proxy, and on Ray Serve's own port."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx


def question(name: str, **more: Any) -> dict[str, Any]:
    return {"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0} | more


def test_health(client: httpx.Client) -> None:
    response = client.get("/health")
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "ok", response.text


def test_models_are_the_inventorys(client: httpx.Client, expected: Any) -> None:
    response = client.get("/v1/models")
    assert response.status_code == 200, response.text
    body = response.json()
    assert body["object"] == "list"
    assert sorted(model["id"] for model in body["data"]) == sorted(expected.names)
    assert {model["owned_by"] for model in body["data"]} == {"vllm"}


def lacks(response: httpx.Response) -> bool:
    """Whether the model is of another kind and doesn't have the URL that was asked."""
    return response.status_code == 404 and response.json()["error"]["code"] == "unknown_url"


def test_every_name_does_what_its_model_does(client: httpx.Client, name: str) -> None:
    response = client.post("/v1/chat/completions", json=question(name))
    if not lacks(response):
        assert response.status_code == 200, response.text
        body = response.json()
        assert body["object"] == "chat.completion"
        assert isinstance(body["choices"][0]["message"]["content"], str)
        assert body["choices"][0]["finish_reason"] in ("stop", "length")
        assert 1 <= body["usage"]["completion_tokens"] <= 4
        return
    asked = {"/v1/embeddings": {"input": "Hello"}, "/classify": {"input": "Hello"}, "/pooling": {"input": "Hello"}}
    for path, more in asked.items():
        response = client.post(path, json={"model": name, **more})
        if not lacks(response):
            assert response.status_code == 200, response.text
            assert response.json()["data"], response.text
            return
    pytest.skip("neither a model that chats nor one that embeds, classifies or pools")


def test_streamed_completion(client: httpx.Client, model: str) -> None:
    with client.stream("POST", "/v1/chat/completions", json=question(model, stream=True)) as response:
        if response.status_code != 200:
            response.read()
            if lacks(response):
                pytest.skip("this model doesn't chat")
            pytest.fail(f"{response.status_code} {response.text}")
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", "the stream was cut"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks, "the stream had no chunk"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}, events
    assert any(chunk["choices"] and chunk["choices"][0].get("finish_reason") in ("stop", "length") for chunk in chunks)


def test_unknown_model_is_the_guides_error(client: httpx.Client) -> None:
    response = client.post("/v1/chat/completions", json=question("no/such-model"))
    assert response.status_code == 404, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "model_not_found")
    assert "no/such-model" not in error["message"]


def test_request_id_comes_back(client: httpx.Client) -> None:
    response = client.get("/v1/models", headers={"X-Request-Id": "verify-1"})
    assert response.headers.get_list("x-request-id") == ["verify-1"]
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", client.get("/v1/models").headers["x-request-id"])
