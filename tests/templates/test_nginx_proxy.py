"""nginx.conf and its script: as text, and in a real nginx on loopback in front of a stand-in for Ray Serve."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from llm_gateway._routes import FORM_PATHS, JSON_PATHS

from .nginx import FACTS, MODELS, REPOSITORY, Proxy, StandInServer, assert_error, config, needs_nginx, running_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Evaluate, Render

# --- As text ---------------------------------------------------------------------------------------------------------


def test_files_say_that_they_are_managed(render: Render) -> None:
    for template in ("nginx.conf.j2", "llm.lua.j2", "llm_clients.lua.j2", "nginx.service.d-llm.conf.j2"):
        text = render(
            "nginx_proxy", template, ansible_facts=FACTS, nginx_proxy_backends=["192.0.2.1"], nginx_proxy_models=MODELS
        )
        head = "\n".join(text.splitlines()[:5])
        assert "Ansible managed" in head
        assert "Role: nginx_proxy" in head


def test_upstream_has_every_backend(render: Render) -> None:
    text = config(render, nginx_proxy_backends=["192.0.2.1", "2001:db8::2"], nginx_proxy_backend_port=18001)
    assert "server 192.0.2.1:18001 " in text
    assert "server [2001:db8::2]:18001 " in text
    assert "proxy_next_upstream_tries 2;" in text


def test_pool_closes_idle_connections_before_serve_does(render: Render) -> None:
    assert "keepalive_timeout 60s;" in config(render)  # Ray Serve: 90 s


@pytest.mark.parametrize(
    ("distribution", "version", "served"),
    [("Debian", "12.1", True), ("Debian", "13.0", True), ("Ubuntu", "24.04", True), ("Ubuntu", "22.04", False)],
)
def test_refuses_a_distribution_without_the_module(
    evaluate: Evaluate, distribution: str, version: str, served: bool
) -> None:
    task = yaml.safe_load((REPOSITORY / "roles/nginx_proxy/tasks/assert.yml").read_text())[0]
    facts = {
        "os_family": "Debian",
        "distribution": distribution,
        "distribution_version": version,
        "distribution_major_version": version.split(".")[0],
    }
    conditions = task["ansible.builtin.assert"]["that"]
    assert all(evaluate("nginx_proxy", f"{{{{ {that} }}}}", ansible_facts=facts) for that in conditions) is served


@pytest.mark.parametrize(
    ("addresses", "ipv6", "expected"),
    [
        (["0.0.0.0", "::"], ["fe80::1"], ["0.0.0.0:18080", "[::]:18080"]),
        (["0.0.0.0", "::"], [], ["0.0.0.0:18080"]),
        (["192.0.2.9", "2001:db8::9"], [], ["192.0.2.9:18080", "[2001:db8::9]:18080"]),
    ],
)
def test_listens_on_ipv6_where_there_is_some(
    render: Render, addresses: list[str], ipv6: list[str], expected: list[str]
) -> None:
    text = config(render, nginx_proxy_listen_addresses=addresses, ansible_facts=FACTS | {"all_ipv6_addresses": ipv6})
    assert [line.split()[1] for line in text.splitlines() if line.strip().startswith("listen ")] == expected


def test_every_error_is_the_envelope(evaluate: Evaluate) -> None:
    errors = evaluate("nginx_proxy", "{{ __nginx_proxy_errors }}")
    types = dict.fromkeys((400, 404, 405, 413, 415), "invalid_request_error")
    types |= {401: "authentication_error", 408: "timeout_error"}
    types |= {429: "rate_limit_error", 500: "server_error", 503: "service_unavailable_error", 504: "timeout_error"}
    for error in errors.values():
        assert set(error) == {"status", "type", "param", "code", "message"}
        assert error["type"] == types[error["status"]]


def test_nothing_secret_is_logged(render: Render) -> None:
    text = config(render)
    log_format = text[text.index("log_format") : text.index("access_log")]
    for variable in ("$request_uri", "$args", "$http_authorization", "$request_body", "$request "):
        assert variable not in log_format


# --- In a real nginx -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy(render: Render, evaluate: Evaluate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(render, evaluate, tmp_path_factory.mktemp("nginx")) as running:
        yield running


@pytest.fixture(autouse=True)
def _as_new(request: pytest.FixtureRequest) -> None:
    if "proxy" in request.fixturenames:
        for backend in request.getfixturevalue("proxy").backends:
            backend.without_routes = False
            backend.go_on.clear()


@needs_nginx
@pytest.mark.parametrize(
    ("model", "application"),
    [("demo/tiny-qwen2", "demo-tiny-qwen2"), ("Qwen/Qwen2.5-32B-Instruct", "demo-tiny-qwen2"), ("other", "other")],
)
def test_routes_by_model_and_alias(proxy: Proxy, model: str, application: str) -> None:
    response = proxy.chat(model, path="/v1/chat/completions?a=b%20c")
    assert response.status_code == 200
    assert response.json()["path"] == f"/m/{application}/v1/chat/completions?a=b%20c"


@needs_nginx
@pytest.mark.parametrize(
    "model", ["nobody", "Other", "other\n", "demo/tiny-qwen2x", "constructor", "", "x" * 5000, "ü"]
)
def test_unknown_model_never_reaches_serve(proxy: Proxy, model: str) -> None:
    before = proxy.seen()
    assert_error(proxy.chat(model), 404, "model_not_found", param="model")
    assert proxy.seen() == before


@needs_nginx
@pytest.mark.parametrize("model", [None, 5, ["other"], {"model": "other"}])
def test_model_must_be_a_string(proxy: Proxy, model: object) -> None:
    assert_error(proxy.chat(model), 400, None, param="model")


@needs_nginx
@pytest.mark.parametrize(
    "body",
    [
        "",
        "no json",
        '{"messages": [',
        "{} {}",
        '{"a": "',
        '{"model": "other"',
        '{"model":"other"}}',
        '{"model":"other"} x',
        '{"model":"\\x"}',
        '{"t": NaN}',
        '{"t": -Infinity}',
        "[" * 100_000,
    ],
)
def test_body_must_be_json(proxy: Proxy, body: str) -> None:
    response = proxy.client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert_error(response, 400, "invalid_json")


@needs_nginx
@pytest.mark.parametrize("body", ['["model"]', '"model"', "null", "5"])
def test_body_must_be_an_object(proxy: Proxy, body: str) -> None:
    response = proxy.client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert_error(response, 400, None, param="model")


@needs_nginx
@pytest.mark.parametrize(
    "body",
    [
        r'{"messages":[{"content":"\"model\":\"nobody\" \\"}],"model":"other"}',
        r'{"x":{"model":"nobody"},"y":"model","model" : "other"}',
        r'{"mod\u0065l":"\u006fther"}',
        '{"input":[' + "1," * 1000 + '1],"model":"other"}',
        '{"input":"' + r"\"" * 20000 + '","model":"other"}',
        r'{"model":"nobody","x":[{"model":"nobody"}],"y":true,"z":-1.5e3,"model":"other"}',
        '{"x":"a\\\\","model":"other"}',
        '{"a":[[],{},[{}]],"model":"other","t":NaN}'.replace("NaN", '"NaN Infinity"'),
        ' \n{"ü€😀":"ü€😀","model":"other"}\n',
    ],
)
def test_finds_the_model_anywhere(proxy: Proxy, body: str) -> None:
    response = proxy.client.post(
        "/v1/completions", content=body.encode(), headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert response.status_code == 200, response.text
    assert response.json()["path"] == "/m/other/v1/completions"


@needs_nginx
@pytest.mark.parametrize("text", ["x", "\\", '"', "ü"], ids=["plain", "backslashes", "quotes", "utf-8"])
@pytest.mark.parametrize("chunked", [False, True])
def test_big_body(proxy: Proxy, text: str, chunked: bool) -> None:
    body = json.dumps(
        {"messages": [text * (5_000_000 // len(json.dumps(text, ensure_ascii=False)))], "model": "other"},
        ensure_ascii=False,
    ).encode()
    content = (body[i : i + 20_001] for i in range(0, len(body), 20_001)) if chunked else body
    response = proxy.client.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text
    assert response.json()["bytes"] == len(body)
    assert response.json()["path"] == "/m/other/v1/chat/completions"


@needs_nginx
def test_big_body_without_a_model(proxy: Proxy) -> None:
    assert_error(
        proxy.client.post("/v1/chat/completions", json={"messages": ["x" * 2_000_000]}), 400, None, param="model"
    )


@needs_nginx
def test_too_big_body(proxy: Proxy) -> None:
    assert_error(proxy.chat(messages=["x" * 9_000_000]), 413, "request_too_large")


@needs_nginx
def test_only_json_bodies(proxy: Proxy) -> None:
    for kind in ("text/plain", "application/jsonp", "application/x-www-form-urlencoded", ""):
        response = proxy.client.post("/v1/completions", content='{"model":"other"}', headers={"Content-Type": kind})
        assert_error(response, 415, "unsupported_media_type")
    assert_error(proxy.client.post("/v1/audio/translations", json={"model": "other"}), 415, "unsupported_media_type")


@needs_nginx
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_form_is_routed_by_its_model(proxy: Proxy, size: int) -> None:
    sound = {"file": ("model.wav", b"--\r\n" * (size // 4), "audio/wav")}
    path = "/v1/audio/transcriptions"
    response = proxy.client.post(path, data={"language": "en", "model": "other"}, files=sound)
    assert (response.status_code, response.json()["path"]) == (200, f"/m/other{path}")
    assert_error(proxy.client.post(path, data={"x": "other"}, files=sound), 400, None, param="model")
    assert_error(proxy.client.post(path, data={"model": "nobody"}, files=sound), 404, "model_not_found", param="model")


def test_both_ways_in_have_the_same_paths(evaluate: Evaluate) -> None:
    paths = evaluate("nginx_proxy", "{{ __nginx_proxy_model_paths }}")
    assert (tuple(paths["json"]), tuple(paths["form"])) == (JSON_PATHS, FORM_PATHS)


@needs_nginx
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/metrics",
        "/-/routes",
        "/m/other/v1/models",
        "/_error/internal_error",
        "/healthz",
        "/v1/../m/other/health",
        "/v1/nothing",
        "/v1/models/",
    ],
)
def test_everything_else_does_not_exist(proxy: Proxy, path: str) -> None:
    before = proxy.seen()
    for method in ("GET", "POST"):
        assert_error(proxy.client.request(method, path), 404, "unknown_url")
    assert proxy.seen() == before


@needs_nginx
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/chat/completions"), ("POST", "/v1/models"), ("DELETE", "/health"), ("OPTIONS", "/v1/completions")],
)
def test_methods(proxy: Proxy, method: str, path: str) -> None:
    response = proxy.client.request(method, path)
    assert_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == ("POST" if "completions" in path else "GET, HEAD")


@needs_nginx
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/health", "/health"),
        ("/health/live", "/health/live"),
        ("/health/ready?x=1", "/health/ready?x=1"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/demo/tiny-qwen2", "/v1/models/demo/tiny-qwen2"),
        ("/v1/models/demo%2Ftiny-qwen2", "/v1/models/demo/tiny-qwen2"),
        ("/v1/models/a%20b%3fc", "/v1/models/a%20b%3Fc"),
        ("/-/x/../../v1/models", "/v1/models"),
    ],
)
def test_gateway_paths(proxy: Proxy, path: str, asked: str) -> None:
    text = raw(proxy, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert text.startswith("HTTP/1.1 200"), text
    assert json.loads(text.partition("\r\n\r\n")[2])["path"] == asked


def raw(proxy: Proxy, request: str) -> str:
    """Without httpx, which would tidy the path up."""
    host, port = proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as s:
        s.sendall(request.encode())
        return b"".join(iter(lambda: s.recv(65536), b"")).decode()


@needs_nginx
def test_a_path_can_not_add_a_header(proxy: Proxy) -> None:
    before = proxy.seen()
    path = "/v1/models/a%20HTTP/1.1%0d%0aX-Injected:%20y"
    text = raw(proxy, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert json.loads(text.partition("\r\n\r\n")[2])["error"]["code"] == "unknown_url"
    assert proxy.seen() == before


@needs_nginx
@pytest.mark.parametrize("way", ["", "apart", "at once", "at once, apart", "in a piece", "in a piece, apart"])
def test_a_broken_stream_ends_with_an_error(proxy: Proxy, way: str) -> None:
    text = raw_chat(proxy, {"model": "other", "order": f"broken {way}"})
    assert "[DONE]" not in text
    assert not text.endswith("0\r\n\r\n")
    event = next(line for line in text.splitlines() if line.startswith('data: {"error"'))
    error = json.loads(event.removeprefix("data: "))["error"]
    assert error.pop("message")
    assert error == {"type": "service_unavailable_error", "param": None, "code": "service_unavailable"}
    assert text.count('data: {"error"') == 1
    time.sleep(5.5)  # fail_timeout


@needs_nginx
def test_a_whole_stream_is_left_alone(proxy: Proxy) -> None:
    for backend in proxy.backends:
        backend.go_on.set()
    text = proxy.chat(order="stream").text
    assert text == "data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"


def raw_chat(proxy: Proxy, body: dict[str, Any]) -> str:
    """As bytes on the wire, also where the answer has no proper end."""
    content = json.dumps(body)
    head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return raw(proxy, f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n{content}")


@needs_nginx
def test_request_id(proxy: Proxy) -> None:
    response = proxy.client.post("/v1/completions", json={"model": "other"}, headers={"X-Request-Id": "my-id.1"})
    assert response.headers.get_list("x-request-id") == ["my-id.1"]
    assert response.json()["headers"]["x-request-id"] == "my-id.1"
    for bad in ("a b", "x" * 129, "<script>", 'a"b'):
        response = proxy.client.post("/v1/completions", json={"model": "other"}, headers={"X-Request-Id": bad})
        own = response.headers["x-request-id"]
        assert own != bad
        assert len(own) == 32
        assert response.json()["headers"]["x-request-id"] == own


@needs_nginx
def test_the_host_s_own_look_is_not_logged(proxy: Proxy) -> None:
    """As keepalived asks; another path is logged, from wherever it is asked."""
    for path in ("/", "/other"):
        response = proxy.client.get(path, headers={"X-Request-Id": f"look{path.replace('/', '-')}"})
        assert_error(response, 404, "unknown_url")
    assert proxy.last_log("look-other")["status"] == 404
    assert 'look-"' not in (proxy.directory / "access.log").read_text()


@needs_nginx
def test_key_does_not_reach_serve(proxy: Proxy) -> None:
    response = proxy.client.post(
        "/v1/completions",
        json={"model": "other"},
        headers={"Authorization": "Bearer sk-secret", "X-Request-Id": "key-1"},
    )
    assert "authorization" not in response.json()["headers"]
    assert "sk-secret" not in (proxy.directory / "access.log").read_text()


@needs_nginx
def test_log_line(proxy: Proxy) -> None:
    proxy.client.post(
        "/v1/completions?key=hidden",
        json={"model": "demo/tiny-qwen2", "prompt": "hidden"},
        headers={"X-Request-Id": "log-1"},
    )
    entry = proxy.last_log("log-1")
    assert entry["path"] == "/v1/completions"
    assert entry["model"] == "demo/tiny-qwen2"
    assert entry["status"] == 200
    assert entry["method"] == "POST"
    assert entry["upstream"]
    assert isinstance(entry["seconds"], float)
    assert "hidden" not in json.dumps(entry)


@needs_nginx
def test_stream_passes_at_once_and_survives_a_reload(proxy: Proxy) -> None:
    # A client of its own: a reload closes connections that are idle.
    streaming = httpx.stream(
        "POST",
        f"{proxy.url}/v1/chat/completions",
        json={"model": "other", "order": "stream"},
        timeout=20,
        trust_env=False,
    )
    with streaming as response:
        assert response.headers["x-accel-buffering"] == "no"
        lines = response.iter_lines()
        assert next(lines) == "data: 1"  # the backend waits: nothing was held back
        proxy.reload()
        assert httpx.get(f"{proxy.url}/health", trust_env=False).status_code == 200
        for backend in proxy.backends:
            backend.go_on.set()
        assert [line for line in lines if line] == ["data: 2", "data: [DONE]"]


@needs_nginx
def test_errors_of_serve_become_the_envelope(proxy: Proxy) -> None:
    unavailable = "service_unavailable_error"
    assert_error(proxy.chat(order="backpressure"), 503, "service_unavailable", unavailable)
    assert_error(proxy.chat(order="loading"), 503, "model_loading", unavailable)
    assert_error(proxy.chat(order="overloaded"), 503, "overloaded", unavailable)
    assert_error(proxy.chat(order="crash"), 503, "service_unavailable", unavailable)
    assert_error(proxy.chat(order="failure"), 500, "internal_error", "server_error")
    assert_error(proxy.chat(order="hang up"), 503, "service_unavailable", unavailable)
    assert_error(proxy.chat(order="not found"), 404, "unknown_url")
    time.sleep(5.5)  # fail_timeout, after the hang-ups


@needs_nginx
def test_what_the_engine_says_about_a_bad_value_is_passed_on(proxy: Proxy) -> None:
    assert_error(proxy.chat(order="bad value"), 400, None, param="temperature")


@needs_nginx
def test_a_node_without_its_routes_is_passed_over(proxy: Proxy) -> None:
    proxy.backends[0].without_routes = True
    for _ in range(6):
        assert proxy.chat().status_code == 200
        assert proxy.client.get("/v1/models").status_code == 200
    proxy.backends[1].without_routes = True
    assert_error(proxy.chat(), 503, "service_unavailable", "service_unavailable_error")
    assert_error(proxy.client.get("/health"), 503, "service_unavailable", "service_unavailable_error")


@needs_nginx
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20000 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (b"NO SENSE\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: odd\r\n\r\n", 400),
    ],
)
def test_malformed_requests_get_the_envelope(proxy: Proxy, request_bytes: bytes, status: int) -> None:
    host, port = proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as s:
        s.sendall(request_bytes)
        s.settimeout(10)
        text = b""
        while b"}}" not in text and (more := s.recv(65536)):
            text += more
    head, _, body = text.decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} "), text
    assert "\r\nX-Request-Id: " in head
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@needs_nginx
def test_a_dead_backend_costs_nothing_and_none_is_503(proxy: Proxy) -> None:
    port = proxy.backends[1].server_address[1]
    proxy.backends[1].die()
    started = time.monotonic()
    for _ in range(10):
        assert proxy.chat().status_code == 200
    assert time.monotonic() - started < 2
    proxy.backends[0].die()
    assert_error(proxy.chat(), 503, "service_unavailable", "service_unavailable_error")
    assert_error(proxy.client.get("/health"), 503, "service_unavailable", "service_unavailable_error")
    for index, address in enumerate(("127.0.0.1", "127.0.0.2")):
        proxy.backends[index] = StandInServer(address, port)
        threading.Thread(target=proxy.backends[index].serve_forever, daemon=True).start()
    for _ in range(80):
        if proxy.chat().status_code == 200:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the backends are back and nginx does not use them")


# What must be reached through none of them.
FORBIDDEN = ["/-/routes", "/m/other/v1/models", "/metrics", "/reset_prefix_cache"]


@needs_nginx
@pytest.mark.parametrize("forbidden", FORBIDDEN)
@pytest.mark.parametrize(
    "trick",
    [
        "{0}",
        "/{0}",
        "//{0}",
        "/v1/..{0}",
        "/v1/models/..{1}",
        "/v1/models/../..{0}",
        "/v1/models/%2e%2e/%2e%2e{0}",
        "/v1/models/..%2f..%2f{1}",
        "/v1/models/..%5c..%5c{1}",
        "/v1/models/..;/..;{0}",
        "/health/../{0}",
        "/health%2f..{0}",
        "/health{0}",
        "/health;{0}",
        "/health?{0}",
        "/health#{0}",
        "/v1/models%00{0}",
        "/./{0}",
        "http://x{0}",
        "http://x/v1/..{0}",
        "{2}",
    ],
)
def test_no_trick_reaches_what_is_not_listed(proxy: Proxy, forbidden: str, trick: str) -> None:
    encoded = "/" + "".join(f"%{ord(letter):02x}" for letter in forbidden[1:])
    target = trick.format(forbidden, forbidden[1:], encoded)
    before = {id(backend): len(backend.seen) for backend in proxy.backends}
    for version in ("1.0", "1.1"):
        for method in ("GET", "POST"):
            head = f"{method} {target} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n"
            text = raw(proxy, f"{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}")
            assert text.split()[1] in ("200", "400", "404", "405"), text
    seen = [path for backend in proxy.backends for path in backend.seen[before[id(backend)] :]]
    assert [path for path in seen if not path.startswith(("/health", "/v1/models"))] == []
    # Serve and what is behind it know no other way up than this one.
    assert [path for path in seen if ".." in path.partition("?")[0].split("/")] == []


@needs_nginx
@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 0\r\nContent-Length: 44\r\n",
        "Content-Length: 44\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: +44\r\n",
        "Content-Length: 4 4\r\n",
        "Content-Length: 0x2c\r\n",
    ],
)
def test_no_request_is_smuggled_in_another_ones_body(proxy: Proxy, headers: str) -> None:
    before = proxy.seen()
    inner = "GET /m/other/v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    text = raw(proxy, f"POST /v1/completions HTTP/1.1\r\nHost: x\r\n{headers}\r\n0\r\n\r\n{inner}")
    assert text.startswith("HTTP/1.1 400 "), text
    assert text.count("HTTP/1.1") == 1
    assert proxy.seen() == before


@needs_nginx
def test_headers_with_underscores_are_dropped(proxy: Proxy) -> None:
    text = raw(proxy, "GET /health HTTP/1.1\r\nHost: x\r\nX_Llm_Client: alice\r\nConnection: close\r\n\r\n")
    assert "x_llm_client" not in json.loads(text.partition("\r\n\r\n")[2])["headers"]


@needs_nginx
def test_the_version_is_not_told(proxy: Proxy) -> None:
    assert proxy.client.get("/health").headers["server"] == "nginx"
    assert proxy.client.get("/nothing").headers["server"] == "nginx"
