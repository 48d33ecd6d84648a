"""Pages of other origins: in a real nginx on loopback in front of a stand-in for Ray Serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .nginx import Proxy, assert_error, config, needs_nginx, running_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from .conftest import Evaluate, Render

pytestmark = needs_nginx

ORIGIN = "https://chat.example.org"
KEY = "k" * 40


@pytest.fixture(scope="module")
def proxy(render: Render, evaluate: Evaluate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    variables = {
        "nginx_proxy_cors_origins": [ORIGIN, "http://localhost:3000"],
        "nginx_proxy_clients": {"a": {"keys": [KEY]}},
    }
    with running_proxy(render, evaluate, tmp_path_factory.mktemp("cors"), **variables) as running:
        yield running


def ask(proxy: Proxy, origin: str) -> httpx.Response:
    return proxy.client.post(
        "/v1/chat/completions", json={"model": "other"}, headers={"Origin": origin, "X-Api-Key": KEY}
    )


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000"])
def test_an_origin_that_may_ask(proxy: Proxy, origin: str) -> None:
    leave = proxy.client.options(
        "/v1/chat/completions", headers={"Origin": origin, "Access-Control-Request-Method": "POST"}
    )
    assert (leave.status_code, leave.content) == (204, b"")
    assert leave.headers["access-control-allow-origin"] == origin
    assert leave.headers["access-control-allow-methods"] == "GET, POST"
    assert "authorization" in leave.headers["access-control-allow-headers"]
    assert leave.headers["vary"] == "Origin"
    answer = ask(proxy, origin)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-methods" not in answer.headers
    assert "origin" not in answer.json()["headers"]


def test_a_page_may_read_errors(proxy: Proxy) -> None:
    answer = proxy.client.post("/v1/chat/completions", json={"model": "other"}, headers={"Origin": ORIGIN})
    assert_error(answer, 401, "invalid_api_key", "authentication_error")
    assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://chat.example.org.evil.example", "https://chatxexample.org", "null", "*"]
)
def test_an_origin_that_may_not(proxy: Proxy, origin: str) -> None:
    leave = proxy.client.options("/v1/chat/completions", headers={"Origin": origin})
    assert_error(leave, 405, "method_not_allowed")
    answer = ask(proxy, origin)
    for response in (leave, answer):
        assert "access-control-allow-origin" not in response.headers


def test_no_origin_by_default(render: Render) -> None:
    assert "Access-Control" not in config(render)
