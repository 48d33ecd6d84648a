"""Keys, limits and usage: in a real nginx on loopback in front of a stand-in for Ray Serve."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from .nginx import Proxy, assert_error, needs_nginx, running_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Evaluate, Render

pytestmark = needs_nginx

KEYS = {name: f"{name}-" + "k" * 40 for name in ("all", "old", "new", "some", "none", "gone", "hashed")}
CLIENTS: dict[str, Any] = {
    "all": {"keys": [KEYS["all"]]},
    "rotating": {"keys": [KEYS["old"], KEYS["new"]], "expires": "2999-12-31"},
    "some": {"keys": [KEYS["some"]], "models": ["Qwen/Qwen2.5-32B-Instruct"]},
    "none": {"keys": [KEYS["none"]], "models": []},
    "gone": {"keys": [KEYS["gone"]], "expires": "2020-01-31"},
    "hashed": {"keys": [f"sha256:{hashlib.sha256(KEYS['hashed'].encode()).hexdigest()}"]},
}
LIMITED = {
    "calm": {"requests_per_minute": 60, "burst": 100},
    "bursty": {"requests_per_minute": 60, "burst": 3},
    "narrow": {"concurrent_requests": 2},
    "frugal": {"tokens_per_minute": 100},
    "streaming": {"tokens_per_minute": 100},
    "leaving": {"tokens_per_minute": 100},
    "other": {},
}


def limited(name: str) -> dict[str, str]:
    """The header of a client with limits."""
    return {"Authorization": f"Bearer {name + '-' * 40}"}


@pytest.fixture(scope="module")
def proxy(render: Render, evaluate: Evaluate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    clients = CLIENTS | {name: {"keys": [name + "-" * 40], **limits} for name, limits in LIMITED.items()}
    with running_proxy(render, evaluate, tmp_path_factory.mktemp("nginx"), nginx_proxy_clients=clients) as running:
        yield running


@pytest.fixture(autouse=True)
def _streams_wait(request: pytest.FixtureRequest) -> None:
    if "proxy" in request.fixturenames:
        for backend in request.getfixturevalue("proxy").backends:
            backend.go_on.clear()


@pytest.fixture
def open_proxy(render: Render, evaluate: Evaluate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    limits = {"requests_per_minute": 60, "burst": 2}
    with running_proxy(render, evaluate, tmp_path_factory.mktemp("open"), nginx_proxy_limits=limits) as running:
        yield running


def ask(proxy: Proxy, headers: dict[str, str], **more: Any) -> httpx.Response:
    return proxy.client.post("/v1/chat/completions", json={"model": "other"} | more, headers=headers)


# --- Keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nobody"},
        {"Authorization": f"Basic {KEYS['all']}"},
        {"Authorization": KEYS["all"]},
        {"Authorization": f"Bearer {KEYS['all']}x"},
        {"Authorization": f"Bearer {KEYS['all'][:-1]}"},
        {"Authorization": f"Bearer {KEYS['all'].upper()}"},
        {"Authorization": f"Bearer {KEYS['all']} {KEYS['all']}"},
        {"Authorization": f"Bearer {KEYS['gone']}"},
        {"Authorization": f"Bearer {hashlib.sha256(KEYS['all'].encode()).hexdigest()}"},
        {"Authorization": "Bearer nobody", "X-Api-Key": KEYS["all"]},
        {"Authorization": f"Bearer  {KEYS['all']}"},
        {"X-Api-Key": "nobody"},
        {"X-Api-Key": ""},
    ],
)
def test_without_a_key_nothing_is_asked_of_serve(proxy: Proxy, headers: dict[str, str]) -> None:
    before = proxy.seen()
    for response in (
        ask(proxy, headers),
        proxy.client.get("/v1/models", headers=headers),
        proxy.client.get("/v1/models/other", headers=headers),
        proxy.client.get("/v1/openapi.json", headers=headers),
        proxy.client.post("/v1/audio/transcriptions", headers=headers),
    ):
        assert_error(response, 401, "invalid_api_key", "authentication_error")
        assert response.headers["www-authenticate"] == "Bearer"
    assert proxy.seen() == before


@pytest.mark.parametrize("name", ["all", "old", "new", "hashed"])
@pytest.mark.parametrize("header", ["Authorization", "X-Api-Key"])
def test_a_key_lets_in_and_stays_here(proxy: Proxy, name: str, header: str) -> None:
    value = KEYS[name] if header == "X-Api-Key" else f"Bearer {KEYS[name]}"
    response = ask(proxy, {header: value, "X-Request-Id": f"{name}-{header}", "X-Llm-Client": "somebody-else"})
    assert response.status_code == 200
    seen = response.json()["headers"]
    client = {"old": "rotating", "new": "rotating"}.get(name, name)
    assert seen["x-llm-client"] == client
    assert not {"authorization", "x-api-key", "x-llm-models"} & set(seen)
    line = proxy.last_log(f"{name}-{header}")
    assert line["client"] == client
    logs = (proxy.directory / "access.log").read_text() + (proxy.directory / "error.log").read_text()
    assert KEYS[name] not in logs


def test_health_needs_no_key(proxy: Proxy) -> None:
    for path in ("/health", "/health/live", "/health/ready"):
        assert proxy.client.get(path).status_code == 200


def test_what_does_not_exist_needs_no_key(proxy: Proxy) -> None:
    assert_error(proxy.client.get("/metrics"), 404, "unknown_url")
    assert_error(proxy.client.get("/v1/chat/completions"), 405, "method_not_allowed")


def test_the_file_has_no_key(proxy: Proxy) -> None:
    text = (proxy.directory / "llm-clients.json").read_text()
    assert all(key not in text for key in KEYS.values())
    assert hashlib.sha256(KEYS["all"].encode()).hexdigest() in text


def test_a_client_uses_its_models_and_sees_no_others(proxy: Proxy) -> None:
    some, none = ({"X-Api-Key": KEYS[name]} for name in ("some", "none"))
    before = proxy.seen()
    assert_error(ask(proxy, some), 404, "model_not_found", param="model")
    assert_error(ask(proxy, none), 404, "model_not_found", param="model")
    assert proxy.seen() == before
    assert ask(proxy, some, model="demo/tiny-qwen2").status_code == 200
    listing = proxy.client.get("/v1/models", headers=some).json()["headers"]
    assert listing["x-llm-models"] == "demo-tiny-qwen2"
    assert proxy.client.get("/v1/models", headers=none).json()["headers"]["x-llm-models"] == "-"


def test_a_client_can_not_choose_what_it_may(proxy: Proxy) -> None:
    given = {"X-Api-Key": KEYS["some"], "X-Llm-Models": "other", "X_Llm_Models": "other"}
    assert proxy.client.get("/v1/models", headers=given).json()["headers"]["x-llm-models"] == "demo-tiny-qwen2"


def test_a_key_is_revoked_and_another_added_while_streams_go_on(proxy: Proxy, evaluate: Evaluate) -> None:
    streaming = httpx.stream(
        "POST",
        f"{proxy.url}/v1/chat/completions",
        json={"model": "other", "order": "stream"},
        headers={"X-Api-Key": KEYS["old"]},
        timeout=20,
        trust_env=False,
    )
    added = "added-" + "k" * 40
    changed = {"keys": [KEYS["new"], added]}
    with streaming as response:
        lines = response.iter_lines()
        assert next(lines) == "data: 1"
        as_it_was = (proxy.directory / "llm-clients.json").read_text()
        try:
            proxy.put_clients(evaluate, nginx_proxy_clients=CLIENTS | {"rotating": changed})
            proxy.reload()
            assert ask(proxy, {"X-Api-Key": added}).status_code == 200
            assert ask(proxy, {"X-Api-Key": KEYS["new"]}).status_code == 200
            assert ask(proxy, {"X-Api-Key": KEYS["old"]}).status_code == 401
        finally:
            (proxy.directory / "llm-clients.json").write_text(as_it_was)
            proxy.reload()
        for backend in proxy.backends:
            backend.go_on.set()
        assert [line for line in lines if line] == ["data: 2", "data: [DONE]"]


def test_a_broken_table_changes_nothing(proxy: Proxy) -> None:
    as_it_was = (proxy.directory / "llm-clients.json").read_text()
    workers = proxy.workers()
    try:
        (proxy.directory / "llm-clients.json").write_text("{")
        proxy.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert set(proxy.workers()) <= set(workers)
        assert ask(proxy, {"X-Api-Key": KEYS["all"]}).status_code == 200
    finally:
        (proxy.directory / "llm-clients.json").write_text(as_it_was)


# --- Limits ----------------------------------------------------------------------------------------------------------


def test_no_limit_no_headers(proxy: Proxy) -> None:
    assert not [name for name in ask(proxy, limited("other")).headers if name.startswith("x-ratelimit")]


def test_requests_per_minute(proxy: Proxy) -> None:
    answers = [ask(proxy, limited("bursty")) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"60"}
    assert_error(answers[3], 429, "rate_limit_exceeded", "rate_limit_error")
    assert answers[3].headers["retry-after"] == "1"
    assert answers[2].headers["x-ratelimit-reset-requests"] == "3s"
    # Another client is not concerned, and neither is health.
    assert ask(proxy, limited("calm")).status_code == 200
    assert proxy.client.get("/health", headers=limited("bursty")).status_code == 200
    # One is free again after a second, and no more than one.
    time.sleep(1.1)
    assert [ask(proxy, limited("bursty")).status_code for _ in range(2)] == [200, 429]


def test_requests_of_all_workers_are_one_count(proxy: Proxy) -> None:
    """As many connections as requests, spread over two workers."""

    def one(_: int) -> int:
        with httpx.Client(base_url=proxy.url, trust_env=False, timeout=20) as client:
            return client.get("/v1/models", headers=limited("calm")).status_code

    with ThreadPoolExecutor(16) as pool:
        began = time.monotonic()
        statuses = list(pool.map(one, range(200)))
        took = time.monotonic() - began
    # 100 at once, and one more in each second; a race of two workers may cost the client one now and then.
    assert 90 <= statuses.count(200) <= 100 + took + 1
    assert set(statuses) == {200, 429}


def test_concurrent_requests(proxy: Proxy) -> None:
    def long() -> httpx.Response:
        return httpx.post(
            f"{proxy.url}/v1/chat/completions",
            json={"model": "other", "order": "stream"},
            headers=limited("narrow"),
            timeout=20,
            trust_env=False,
        )

    before = proxy.seen()
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(long) for _ in range(2)]
        for _ in range(100):
            if proxy.seen() >= before + 2:
                break
            time.sleep(0.05)
        refused = ask(proxy, limited("narrow"))
        # A reload forgets nobody.
        proxy.reload()
        refused_again = ask(proxy, limited("narrow"))
        for backend in proxy.backends:
            backend.go_on.set()
        assert [answer.result().status_code for answer in running] == [200, 200]
    for answer in (refused, refused_again):
        assert_error(answer, 429, "rate_limit_exceeded", "rate_limit_error")
    # All are given back, also those of refused requests and of errors.
    for _ in range(5):
        assert ask(proxy, limited("narrow")).status_code == 200
        assert ask(proxy, limited("narrow"), model="nobody").status_code == 404
        assert ask(proxy, limited("narrow"), order="crash").status_code == 503


def test_a_killed_worker_takes_no_slot_with_it(proxy: Proxy) -> None:
    streams = []
    for _ in range(2):
        client = httpx.Client(base_url=proxy.url, trust_env=False, timeout=20)
        stream = client.stream(
            "POST", "/v1/chat/completions", json={"model": "other", "order": "stream"}, headers=limited("narrow")
        )
        stream.__enter__()
        streams.append((client, stream))
    assert ask(proxy, limited("narrow")).status_code == 429
    for worker in proxy.workers():
        os.kill(worker, signal.SIGKILL)
    time.sleep(0.5)
    proxy.connect()
    for backend in proxy.backends:
        backend.go_on.set()
    for client, _ in streams:
        client.close()
    assert [ask(proxy, limited("narrow")).status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("order", ["used", "used stream"])
def test_tokens_per_minute(proxy: Proxy, order: str) -> None:
    """Each answer has 17 tokens, and 100 may be had at once: the one that goes over is still answered."""
    client = limited("frugal" if order == "used" else "streaming")
    statuses = []
    for number in range(8):
        headers = client | {"X-Request-Id": f"{order.replace(' ', '-')}-{number}"}
        response = ask(proxy, headers, order=order, events=9)
        statuses.append(response.status_code)
        if response.status_code == 200:
            assert "usage" not in response.text
            assert "x-llm-usage" not in response.headers
            assert int(response.headers["x-ratelimit-remaining-tokens"]) == pytest.approx(100 - 17 * number, abs=3)
            line = proxy.last_log(f"{order.replace(' ', '-')}-{number}")
            assert (line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"]) == (10, 4, 7)
    assert statuses == [200] * 6 + [429] * 2
    assert_error(response, 429, "rate_limit_exceeded", "rate_limit_error")
    assert response.headers["x-ratelimit-limit-tokens"] == "100"
    assert int(response.headers["retry-after"]) >= 1


def test_tokens_of_a_stream_that_its_client_leaves(proxy: Proxy) -> None:
    with httpx.Client(base_url=proxy.url, trust_env=False, timeout=20) as client:
        body = {"model": "other", "order": "broken in a piece", "filler": "x" * 400}
        with client.stream("POST", "/v1/chat/completions", json=body, headers=limited("leaving")) as response:
            next(response.iter_raw())
    time.sleep(0.3)
    # The prompt was some 600 bytes.
    assert int(ask(proxy, limited("leaving")).headers["x-ratelimit-remaining-tokens"]) < 100


def test_limits_of_addresses_where_all_may_come(open_proxy: Proxy) -> None:
    def answer(address: str) -> int:
        transport = httpx.HTTPTransport(local_address=address)
        with httpx.Client(base_url=open_proxy.url, transport=transport, timeout=20) as client:
            return client.post("/v1/chat/completions", json={"model": "other"}).status_code

    assert [answer("127.0.0.1") for _ in range(3)] == [200, 200, 429]
    assert [answer("127.0.0.9") for _ in range(3)] == [200, 200, 429]


def test_five_thousand_clients(render: Render, evaluate: Evaluate, tmp_path_factory: pytest.TempPathFactory) -> None:
    clients = {f"client-{number}": {"keys": [f"{number:040d}"]} for number in range(5000)}
    with running_proxy(render, evaluate, tmp_path_factory.mktemp("many"), nginx_proxy_clients=clients) as proxy:
        response = ask(proxy, {"X-Api-Key": f"{4321:040d}"})
        assert response.json()["headers"]["x-llm-client"] == "client-4321"
        assert ask(proxy, {"X-Api-Key": f"{5000:040d}"}).status_code == 401


def test_log_line_of_a_request_without_usage(proxy: Proxy) -> None:
    proxy.client.get("/health", headers={"X-Request-Id": "no-usage"})
    line = proxy.last_log("no-usage")
    assert (line["client"], line["prompt_tokens"], line["completion_tokens"]) == ("", None, None)
