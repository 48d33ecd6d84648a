"""TLS: in a real nginx on loopback, with certificates that the test makes."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from .nginx import Proxy, assert_error, config, free_port, needs_nginx, running_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Evaluate, Render


def make_certificate(directory: Path, name: str) -> Path:
    """A certificate that signs itself, and its key: ``<name>.pem`` and ``<name>.key``."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "1", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(directory / f"{name}.key"), "-out", str(directory / f"{name}.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return directory / f"{name}.pem"


@pytest.fixture(scope="module")
def proxy(render: Render, evaluate: Evaluate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("tls")
    make_certificate(directory, "server").rename(directory / "fullchain.pem")
    (directory / "server.key").rename(directory / "privkey.pem")
    make_certificate(directory, "client")
    make_certificate(directory, "stranger")
    https = free_port()
    variables = {
        "nginx_proxy_tls_dir": str(directory),
        "nginx_proxy_https_port": https,
        "nginx_proxy_redirect_enabled": True,
        "nginx_proxy_hsts_seconds": 3600,
        "nginx_proxy_client_ca": str(directory / "client.pem"),
    }
    with running_proxy(render, evaluate, directory, **variables) as running:
        running.https = f"https://127.0.0.1:{https}"
        yield running


def secure(proxy: Proxy, client: str = "client", **more: Any) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(proxy.directory / "fullchain.pem"))
    if client:
        context.load_cert_chain(proxy.directory / f"{client}.pem", proxy.directory / f"{client}.key")
    for name, value in more.items():
        setattr(context, name, value)
    return httpx.Client(base_url=proxy.https, verify=context, trust_env=False, timeout=20)


CHAT = {"model": "other"}


@needs_nginx
def test_what_comes_by_tls_is_answered(proxy: Proxy) -> None:
    with secure(proxy) as client:
        response = client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200
    assert response.json()["headers"]["x-forwarded-proto"] == "https"
    assert response.headers["strict-transport-security"] == "max-age=3600"


@needs_nginx
def test_errors_say_so_too(proxy: Proxy) -> None:
    with secure(proxy) as client:
        response = client.get("/nothing")
    assert_error(response, 404, "unknown_url")
    assert response.headers["strict-transport-security"] == "max-age=3600"


@needs_nginx
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_that_are_spoken(proxy: Proxy, version: ssl.TLSVersion) -> None:
    with secure(proxy, minimum_version=version, maximum_version=version) as client:
        assert client.get("/health").status_code == 200


@needs_nginx
@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_versions_that_are_not(proxy: Proxy, option: str) -> None:
    address = proxy.https.removeprefix("https://")
    command = ["openssl", "s_client", "-connect", address, option, "-cipher", "DEFAULT@SECLEVEL=0"]
    done = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert done.returncode != 0
    assert b"alert protocol version" in done.stderr


@needs_nginx
def test_http2(proxy: Proxy) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here")
    files = [str(proxy.directory / name) for name in ("fullchain.pem", "client.pem", "client.key")]
    command = [curl, "--silent", "--http2", "--cacert", files[0], "--cert", files[1], "--key", files[2]]
    command += ["--json", json.dumps(CHAT), "--write-out", "\n%{http_version}", f"{proxy.https}/v1/chat/completions"]
    body, version = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rsplit("\n", 1)
    assert version == "2"
    assert json.loads(body)["path"] == "/m/other/v1/chat/completions"
    # Of a body whose length is not said before, HTTP/2's frames say the end.
    command[command.index("--json") + 1] = "@-"
    command += ["--header", "Content-Length:"]
    body, _ = subprocess.run(command, check=True, capture_output=True, text=True, input=json.dumps(CHAT)).stdout.rsplit(
        "\n", 1
    )
    assert json.loads(body)["path"] == "/m/other/v1/chat/completions"


@needs_nginx
def test_what_comes_without_tls_is_sent_there(proxy: Proxy) -> None:
    response = proxy.client.post("/v1/chat/completions?a=b", json=CHAT)
    assert response.status_code == 308
    assert response.headers["location"] == f"{proxy.https}/v1/chat/completions?a=b"
    assert "strict-transport-security" not in response.headers
    for path in ("/health", "/health/live", "/health/ready"):
        assert proxy.client.get(path).status_code == 200


@needs_nginx
@pytest.mark.parametrize("who", ["", "stranger"])
def test_clients_without_a_certificate_get_nothing_but_health(proxy: Proxy, who: str) -> None:
    with secure(proxy, who) as client:
        if not who:
            for response in (client.post("/v1/chat/completions", json=CHAT), client.get("/v1/models")):
                assert_error(response, 401, "invalid_api_key", "authentication_error")
            assert client.get("/health").status_code == 200
        else:
            # One that nobody vouches for is refused before anything is asked.
            assert_error(client.get("/v1/models"), 400, None)


@needs_nginx
def test_plain_http_on_the_port_of_tls(proxy: Proxy) -> None:
    response = httpx.get(proxy.https.replace("https", "http") + "/v1/models", trust_env=False)
    assert_error(response, 400, None)


@pytest.mark.parametrize(("release", "old"), [("12", True), ("13", False)])
def test_http2_and_http3_by_the_distributions_nginx(render: Render, release: str, old: bool) -> None:
    facts = {"all_ipv6_addresses": [], "distribution": "Debian", "distribution_major_version": release}
    text = config(render, ansible_facts=facts, nginx_proxy_tls_dir="/etc/llm/tls", nginx_proxy_http3_enabled=not old)
    assert ("ssl http2 default_server" in text) == old
    assert ("http2 on;" in text) == (not old)
    assert ("quic reuseport" in text) == (not old)
    assert ("Alt-Svc" in text) == (not old)


def test_challenges_of_an_acme_server(render: Render) -> None:
    text = config(render, nginx_proxy_acme_webroot="/var/www/llm-acme")
    assert "listen 0.0.0.0:80;" in text
    assert "root /var/www/llm-acme;" in text
    assert ":80;" not in config(render)


@needs_nginx
def test_challenges_that_only_another_proxy_knows(render: Render, tmp_path: Path) -> None:
    """What the configuration says; no test has an ACME server in front of two proxies."""
    text = config(
        render,
        nginx_proxy_acme_webroot="/var/www/llm-acme",
        nginx_proxy_peers=["192.0.2.8", "2001:db8::8"],
        __nginx_proxy_pid_file=str(tmp_path / "pid"),
        nginx_proxy_log_dir=str(tmp_path),
    )
    assert "server 192.0.2.8:80;" in text
    assert "server [2001:db8::8]:80;" in text
    assert text.count("proxy_next_upstream_tries 2;") == 2
