"""TLS between nginx and a node: a real nginx and a real stunnel on loopback, in front of a stand-in for Ray Serve."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from .nginx import Proxy, free_port, needs_nginx, running_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Evaluate, Render

pytestmark = [
    needs_nginx,
    pytest.mark.skipif(shutil.which("stunnel4") is None, reason="no stunnel here: apt-get install stunnel4"),
]


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_certificates(directory: Path) -> None:
    """An authority, and a directory with a certificate of its for the node, a proxy, and one who is neither."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    authority, authority_key = directory / "ca.pem", directory / "ca.key"
    openssl(
        "req", "-x509", *key, "-days", "1", "-subj", "/CN=ca", "-keyout", str(authority_key), "-out", str(authority)
    )
    for name in ("llm-node", "llm-proxy", "somebody"):
        place = directory / name
        place.mkdir()
        openssl(
            *(
                "req",
                "-x509",
                *key,
                "-days",
                "1",
                "-subj",
                "/CN=x",
                "-CA",
                str(authority),
                "-CAkey",
                str(authority_key),
            ),
            *("-addext", f"subjectAltName=critical,DNS:{name}", "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", str(place / "privkey.pem"), "-out", str(place / "fullchain.pem")),
        )
        shutil.copy(authority, place / "ca.pem")


@pytest.fixture(scope="module")
def proxy(render: Render, evaluate: Evaluate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory = tmp_path_factory.mktemp("node")
    make_certificates(directory)
    port = free_port()
    processes = []

    def start_stunnel(backend: int) -> dict[str, Any]:
        variables = {
            "serve_tls_port": port,
            "serve_tls_backend_port": backend,
            "serve_tls_dir": str(directory / "llm-node"),
        }
        file = directory / "stunnel.conf"
        file.write_text(render("serve_tls", "stunnel.conf.j2", **variables))
        processes.append(subprocess.Popen(["stunnel4", str(file)], stderr=subprocess.DEVNULL))
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        return {
            "nginx_proxy_backends": ["127.0.0.1"],
            "nginx_proxy_backend_port": port,
            "nginx_proxy_backend_tls_dir": str(directory / "llm-proxy"),
        }

    with running_proxy(render, evaluate, directory, before=start_stunnel) as running:
        running.https = f"https://127.0.0.1:{port}"
        yield running
    for process in processes:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def test_requests_and_streams_go_through(proxy: Proxy) -> None:
    assert proxy.chat("other").json()["path"] == "/m/other/v1/chat/completions"
    assert proxy.client.get("/health").status_code == 200
    body = {"model": "other", "order": "stream"}
    for backend in proxy.backends:
        backend.go_on.clear()
    with proxy.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines) == "data: 1"  # the backend waits: nothing was held back
        for backend in proxy.backends:
            backend.go_on.set()
        assert [line for line in lines if line] == ["data: 2", "data: [DONE]"]


@pytest.mark.parametrize(("who", "is_let_in"), [("llm-proxy", True), ("somebody", False), ("", False)])
def test_only_a_proxy_is_let_in(proxy: Proxy, who: str, is_let_in: bool) -> None:
    context = ssl.create_default_context(cafile=str(proxy.directory / "ca.pem"))
    context.check_hostname = False
    if who:
        context.load_cert_chain(proxy.directory / who / "fullchain.pem", proxy.directory / who / "privkey.pem")
    with httpx.Client(base_url=proxy.https, verify=context, trust_env=False) as client:
        if is_let_in:
            assert client.get("/health").status_code == 200
        else:
            with pytest.raises(httpx.TransportError):
                client.get("/health")


def test_nothing_older_than_tls_1_3(proxy: Proxy) -> None:
    address = proxy.https.removeprefix("https://")
    done = subprocess.run(
        ["openssl", "s_client", "-connect", address, "-tls1_2"], input=b"", capture_output=True, check=False
    )
    assert done.returncode != 0


def test_a_node_that_is_somebody_else_is_not_asked(proxy: Proxy) -> None:
    """Its certificate is of the same authority, but for another name."""
    file = proxy.directory / "stunnel.conf"
    port = free_port()
    other = proxy.directory / "other.conf"
    text = file.read_text().replace(str(proxy.directory / "llm-node"), str(proxy.directory / "somebody"))
    other.write_text(text.replace(f"accept = :::{proxy.https.rpartition(':')[2]}", f"accept = :::{port}"))
    conf = proxy.config_file.read_text()
    with subprocess.Popen(["stunnel4", str(other)], stderr=subprocess.DEVNULL) as process:
        try:
            proxy.config_file.write_text(
                conf.replace(f"127.0.0.1:{proxy.https.rpartition(':')[2]} max_fails", f"127.0.0.1:{port} max_fails")
            )
            time.sleep(0.5)
            before = proxy.seen()
            proxy.reload()
            assert proxy.chat("other").status_code == 503
            assert proxy.seen() == before
        finally:
            proxy.config_file.write_text(conf)
            proxy.reload()
            process.send_signal(signal.SIGTERM)
            process.wait(10)
    assert proxy.chat("other").status_code == 200
