"""The gateway application, without Ray: a stand-in answers in the place of Serve and the engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient

from llm_gateway import _upstream
from llm_gateway.config import GatewayApplication
from llm_gateway.gateway import make_app

if TYPE_CHECKING:
    from collections.abc import Iterator

REST = {"nodes": 1, "port": 18000, "max_body_mib": 1}
ID, ALIAS = "demo/tiny-qwen2", "Qwen/Qwen2.5-32B-Instruct"


@pytest.fixture
def client(serve: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(_upstream, "_PROBE_TTL_S", 0.0)
    config = GatewayApplication.model_validate(
        {
            "models": [{"id": ID, "slug": "demo-tiny-qwen2", "aliases": [ALIAS]}],
            "nodes": 1,
            "port": 18000,
            "max_body_mib": 1,
        }
    )
    with TestClient(make_app(config, serve.url), raise_server_exceptions=False) as client:
        yield client


def chat(client: TestClient, **body: Any) -> Any:
    return client.post(
        "/v1/chat/completions?x=1", json={"model": ID, "messages": [], **body}, headers={"X-Request-Id": "r1"}
    )


def error(response: Any) -> tuple[int, str, str | None, str | None]:
    body = response.json()["error"]
    assert sorted(body) == ["code", "message", "param", "type"]
    return response.status_code, body["type"], body["code"], body["param"]


def test_health_says_what_the_engine_says(client: TestClient, serve: Any) -> None:
    assert client.get("/health").json() == {"status": "ok", "models": {ID: "ok"}}
    assert client.get("/health/ready").status_code == 200
    serve.is_well = False
    response = client.get("/health")
    assert response.headers["retry-after"] == "2"
    assert (response.status_code, response.json()) == (503, {"status": "unavailable", "models": {ID: "unavailable"}})
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200
    serve.is_loading = True
    assert client.get("/health").json()["models"] == {ID: "loading"}


def test_a_hanging_engine_is_not_well(client: TestClient, serve: Any) -> None:
    serve.hangs = True
    assert client.get("/health").status_code == 503


def test_one_stall_of_a_model_that_was_well_is_forgiven_and_no_second_one(client: TestClient, serve: Any) -> None:
    assert client.get("/health").status_code == 200
    time.sleep(0.6)  # longer than an answer is remembered
    serve.hangs = True
    began = time.monotonic()
    assert client.get("/health").status_code == 200
    assert client.get("/health").status_code == 503
    assert time.monotonic() - began < 2.5


def test_models_lists_ids_and_aliases_that_answer(client: TestClient, serve: Any) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [(m["id"], m["object"], m["owned_by"]) for m in listed["data"]] == [
        (ID, "model", "vllm"),
        (ALIAS, "model", "vllm"),
    ]
    assert client.get(f"/v1/models/{ALIAS}").json()["root"] == ID
    serve.is_well = False
    assert client.get("/v1/models").json()["data"] == []
    assert error(client.get(f"/v1/models/{ID}")) == (404, "invalid_request_error", "model_not_found", "model")


@pytest.mark.parametrize("name", [ID, ALIAS])
def test_a_chat_reaches_the_model_untouched(client: TestClient, serve: Any, name: str) -> None:
    response = chat(client, model=name)
    assert (response.status_code, response.json()) == (200, {"object": "chat.completion"})
    path, request_id, body = serve.seen[0]
    assert (path, request_id) == ("/m/demo-tiny-qwen2/v1/chat/completions?x=1", "r1")
    assert name.encode() in body


def test_a_stream_is_passed_on(client: TestClient) -> None:
    response = chat(client, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.content == b'data: {"n":1}\n\ndata: [DONE]\n\n'


def test_a_stream_that_breaks_ends_with_an_error_and_without_done(client: TestClient) -> None:
    response = chat(client, stream=True, user="dies")
    assert b"[DONE]" not in response.content
    assert b'"code": "service_unavailable"' in response.content


def test_plain_text_failures_become_the_envelope(client: TestClient) -> None:
    response = chat(client, user="plain-failure")
    assert error(response) == (503, "service_unavailable_error", "service_unavailable", None)
    assert response.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "invalid_request_error", "invalid_json", None)),
        (b"{", (400, "invalid_request_error", "invalid_json", None)),
        (b"[" * 100_000, (400, "invalid_request_error", "invalid_json", None)),
        (b'{"model": "m", "temperature": NaN}', (400, "invalid_request_error", "invalid_json", None)),
        (b"[]", (400, "invalid_request_error", None, "model")),
        (b'{"model": 1}', (400, "invalid_request_error", None, "model")),
        (b'{"model": "secret-name"}', (404, "invalid_request_error", "model_not_found", "model")),
    ],
)
def test_bad_bodies(client: TestClient, body: bytes, expected: tuple[Any, ...]) -> None:
    response = client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert error(response) == expected
    assert "secret-name" not in response.text


def test_unknown_urls_and_methods(client: TestClient) -> None:
    for path in ("/docs", "/v1/nothing", "/reset_prefix_cache"):
        assert error(client.get(path)) == (404, "invalid_request_error", "unknown_url", None)
    assert error(client.delete("/health")) == (405, "invalid_request_error", "method_not_allowed", None)
    response = client.get("/v1/chat/completions")
    assert error(response) == (405, "invalid_request_error", "method_not_allowed", None)
    assert response.headers["allow"] == "POST"


def test_only_json(client: TestClient) -> None:
    response = client.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert error(response) == (415, "invalid_request_error", "unsupported_media_type", None)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(client: TestClient, chunked: bool) -> None:
    body = b" " * (2**20 + 1)
    content = iter([body[:100], body[100:]]) if chunked else body
    response = client.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert error(response) == (413, "invalid_request_error", "request_too_large", None)


def test_a_form_goes_to_the_model_that_it_names(client: TestClient) -> None:
    path, sound = "/v1/audio/transcriptions", {"file": ("a.wav", b"RIFF\r\n--", "audio/wav")}
    assert client.post(path, data={"language": "en", "model": ID}, files=sound).json()["bytes"] > 100
    missing = (400, "invalid_request_error", None, "model")
    assert error(client.post(path, data={"language": "model"}, files=sound)) == missing
    assert error(client.post(path, data={"model": "x"}, files=sound))[2] == "model_not_found"
    bare = {"Content-Type": "multipart/form-data"}
    assert error(client.post(path, content=b"--x", headers=bare)) == missing


def test_what_a_replica_refuses_is_passed_on(client: TestClient) -> None:
    response = chat(client, user="refusal")
    assert (response.status_code, response.content) == (400, b"{}")


def test_a_connection_closed_at_the_wrong_moment_is_nobodys_error(client: TestClient, serve: Any) -> None:
    assert chat(client, user="hangs up once").status_code == 200
    assert len(serve.seen) == 2


def test_openapi_shows_what_can_be_reached(client: TestClient) -> None:
    document = client.get("/v1/openapi.json").json()
    assert "/reset_prefix_cache" not in document["paths"]
    assert {"/v1/chat/completions", "/v1/models", "/health"} < set(document["paths"])
    assert set(document["components"]["schemas"]) == {"Chat", "Message", "Error", "Model", "ModelList", "Health"}
    assert "422" not in document["paths"]["/v1/chat/completions"]["post"]["responses"]


def test_a_model_whose_application_is_not_there_is_loading(client: TestClient) -> None:
    path = "/m/demo-tiny-qwen2/v1/chat/completions"
    assert error(client.post(path)) == (503, "service_unavailable_error", "model_loading", None)
    assert error(client.post("/m/other/v1/chat/completions")) == (
        404,
        "invalid_request_error",
        "model_not_found",
        "model",
    )


def test_no_serve_at_all() -> None:
    config = GatewayApplication.model_validate(
        {"models": [{"id": ID, "slug": "m"}], "nodes": 1, "port": 18000, "max_body_mib": 1}
    )
    # Port 9 is discard's; nothing listens there on loopback.
    with TestClient(make_app(config, "http://127.0.0.1:9")) as client:
        assert client.get("/health").status_code == 503
        assert error(chat(client)) == (503, "service_unavailable_error", "service_unavailable", None)
