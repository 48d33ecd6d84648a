"""What clients get by HTTP/3, from the distribution's nginx, through the firewall."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess

    from testhosts import TestHosts

URL = "https://llm.test:18443"
BODY = json.dumps({"model": "demo/tiny-qwen2", "stream": True, "messages": []})
STREAM_S = 4


def curl(hosts: TestHosts, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Ask the common address from the host that is none of the cluster's, as a user who has installed its authority."""
    argv = ["curl", "-sS", "--cacert", "/srv/ca.pem", "--resolve", "llm.test:18443:198.18.24.100", *arguments]
    return hosts.execute("outside1", argv, check=check)


def streamed(hosts: TestHosts, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Read a model's stream for some seconds, until curl gives up (28); what came is in stdout."""
    return curl(
        hosts, *arguments, "--no-buffer", "--max-time", str(STREAM_S), "--json", BODY, f"{URL}/v1/chat/completions",
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _is_new(hosts: TestHosts) -> None:
    if hosts.execute("proxy1", ["grep", "-c", " quic ", "/etc/nginx/nginx.conf"], check=False).returncode != 0:
        pytest.skip("the hosts' nginx has no HTTP/3: run the scenario without MOLECULE_SUITE=bookworm")


def test_an_answer_by_http2_says_where_http3_is(hosts: TestHosts) -> None:
    said = curl(hosts, "--include", f"{URL}/health/live").stdout
    assert said.startswith("HTTP/2 200")
    assert 'alt-svc: h3=":18443"' in said


def test_an_answer_by_http3(hosts: TestHosts) -> None:
    said = curl(hosts, "--http3-only", "--include", f"{URL}/health/live").stdout
    assert said.startswith("HTTP/3 200")
    assert '"proxy"' in said


def test_an_error_by_http3(hosts: TestHosts) -> None:
    said = curl(hosts, "--http3-only", "--include", "--json", "{", f"{URL}/v1/chat/completions").stdout
    assert said.startswith("HTTP/3 400")
    assert "x-request-id: " in said
    assert json.loads(said.partition("\n\n")[2])["error"]["code"] == "invalid_json"


def test_a_stream_by_http3(hosts: TestHosts) -> None:
    done = streamed(hosts, "--http3-only")
    assert done.returncode == 28
    pieces = [json.loads(line.removeprefix("data: "))["piece"] for line in done.stdout.split("\n\n") if line]
    assert pieces == list(range(len(pieces)))
    assert len(pieces) > STREAM_S


def test_a_reload_of_nginx_under_a_stream_by_http3(hosts: TestHosts) -> None:
    found: list[subprocess.CompletedProcess[str]] = []
    reader = threading.Thread(target=lambda: found.append(streamed(hosts, "--http3-only")))
    reader.start()
    time.sleep(STREAM_S / 2)
    for proxy in ("proxy1", "proxy2"):
        hosts.execute(proxy, ["systemctl", "reload", "nginx.service"])
    assert curl(hosts, "--http3-only", f"{URL}/health/live").returncode == 0
    reader.join()
    pieces = [line for line in found[0].stdout.split("\n\n") if line]
    print(f"{len(pieces)} pieces in {STREAM_S} seconds, exit status {found[0].returncode}")
    assert found[0].returncode == 28, "the stream broke"


def test_it_is_in_the_log(hosts: TestHosts) -> None:
    lines = [hosts.execute(proxy, ["cat", "/var/log/nginx/access.log"]).stdout for proxy in ("proxy1", "proxy2")]
    assert '"protocol":"HTTP/3.0"' in "".join(lines)
