"""Clients that send as slowly as they can: in a real nginx on loopback in front of a stand-in for Ray Serve."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from .nginx import Proxy, needs_nginx, running_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Evaluate, Render

pytestmark = needs_nginx

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def proxy(render: Render, evaluate: Evaluate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    variables = {"nginx_proxy_header_timeout_seconds": 2, "nginx_proxy_body_timeout_seconds": 2}
    with running_proxy(render, evaluate, tmp_path_factory.mktemp("slow"), **variables) as running:
        yield running


def connected(proxy: Proxy) -> socket.socket:
    host, port = proxy.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 10)


def test_headers_that_drip_are_given_up_and_others_are_answered(proxy: Proxy) -> None:
    """Each second another header, for ever: the time holds for all of them together."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(proxy)) for _ in range(60)]
        began = time.monotonic()
        closed: set[int] = set()
        for number in range(8):
            for index, one in enumerate(slow):
                try:
                    one.sendall(HEAD if number == 0 else f"X-{number}: y\r\n".encode())
                except OSError:
                    closed.add(index)
            before = time.monotonic()
            assert proxy.client.get("/health").status_code == 200
            assert time.monotonic() - before < 1
            if len(closed) == len(slow):
                break
            time.sleep(1)
        assert len(closed) == len(slow)
        assert time.monotonic() - began < 8


def test_a_body_that_does_not_come_ends_the_connection(proxy: Proxy) -> None:
    """Without an answer: that is nginx's way, which nothing in its configuration changes."""
    with connected(proxy) as one:
        one.sendall(HEAD + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        began = time.monotonic()
        assert one.recv(65536) == b""
        assert 1 < time.monotonic() - began < 5
