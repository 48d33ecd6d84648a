"""The proxies' common address: who has it, and how fast another one takes it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from testhosts import TestHosts

ADDRESS, PORT = "198.18.24.100", 18080
# Two questions to nginx that fail, or three signs of life that don't come, and what a busy machine adds.
MOVE_S = 10.0
BODY = json.dumps({"model": "demo/tiny-qwen2", "stream": True, "messages": []}).encode()
QUIET_S = 4.0


# What the node sees of the proxies, by address; see the scenario's inventory.
PROXIES = {"198.18.24.11": "proxy1", "198.18.24.12": "proxy2"}


def who() -> str | None:
    """The proxy that answers at the common address, as the node behind it says; None where none does."""
    connection = http.client.HTTPConnection(ADDRESS, PORT, timeout=0.5)
    try:
        connection.request("GET", "/health/live")
        answer = connection.getresponse()
        return PROXIES[json.loads(answer.read())["proxy"]] if answer.status == HTTPStatus.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def move(cut: Callable[[], object], heir: str) -> float:
    """Break something, wait until a host answers, and say how many seconds that took from the first moment on."""
    breaking, began = threading.Thread(target=cut), time.monotonic()
    breaking.start()
    while (found := who()) != heir:
        assert time.monotonic() - began < MOVE_S, f"{found} answers after {MOVE_S} s, and not {heir}"
        time.sleep(0.05)
    took = time.monotonic() - began
    breaking.join()
    return took


def stays(expected: str) -> None:
    """Ask for a while; nobody else answers, and every question is answered."""
    until = time.monotonic() + QUIET_S
    while time.monotonic() < until:
        assert who() == expected
        time.sleep(0.05)


def owners(hosts: TestHosts) -> list[str]:
    """The proxies that have the address."""
    found = []
    for host in ("proxy1", "proxy2"):
        shown = json.loads(hosts.execute(host, ["ip", "-json", "address", "show", "dev", "eth0"]).stdout)
        if any(each["local"] == ADDRESS for each in shown[0]["addr_info"]):
            found.append(host)
    return found


class Stream:
    """A model's stream of two minutes, read in the background."""

    def __init__(self, address: str) -> None:
        self.bytes = 0
        self.ended = False
        self._socket = socket.create_connection((address, PORT), timeout=5)
        self._socket.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: llm.test\r\nContent-Type: application/json\r\n"
            + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
        )
        self._socket.settimeout(None)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while piece := self._socket.recv(1024):
                self.bytes += len(piece)
        self.ended = True

    def close(self) -> None:
        """Give the stream up."""
        with contextlib.suppress(OSError):  # it may be broken already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def goes_on(self) -> bool:
        """Whether more comes within three seconds."""
        before, until = self.bytes, time.monotonic() + 3
        while time.monotonic() < until:
            if self.bytes > before:
                return True
            time.sleep(0.1)
        return False


@pytest.fixture
def stream() -> Iterator[Callable[[str], Stream]]:
    """Open streams, which end with the test."""
    opened: list[Stream] = []

    def call(address: str) -> Stream:
        opened.append(Stream(address))
        return opened[-1]

    yield call
    for each in opened:
        each.close()


def test_one_proxy_has_the_address(hosts: TestHosts) -> None:
    first = who()
    assert first in ("proxy1", "proxy2")
    assert owners(hosts) == [first]
    # Others need not ask where it is: whoever takes it says so.
    answer = hosts.execute("outside1", ["curl", "-sS", f"http://{ADDRESS}:{PORT}/health/live"]).stdout
    assert PROXIES[json.loads(answer)["proxy"]] == first


def test_a_killed_nginx_is_back_before_it_moves(hosts: TestHosts) -> None:
    first = who()
    assert first is not None
    hosts.execute(first, ["systemctl", "kill", "--signal=KILL", "nginx.service"])
    until = time.monotonic() + QUIET_S
    while time.monotonic() < until:
        assert who() in (first, None)
        time.sleep(0.05)
    assert who() == first
    assert owners(hosts) == [first]


def test_an_nginx_that_stays_away_moves_it(
    hosts: TestHosts, addresses: dict[str, str], stream: Callable[[str], Stream]
) -> None:
    lost = who()
    assert lost is not None
    heir = {"proxy1": "proxy2", "proxy2": "proxy1"}[lost]
    through_it, direct, heirs = stream(ADDRESS), stream(addresses[lost]), stream(addresses[heir])
    assert through_it.goes_on()
    # systemd would start it again.
    kill = "systemctl kill --signal=KILL nginx.service; systemctl stop nginx.service"
    took = move(lambda: hosts.execute(lost, ["sh", "-c", kill]), heir)
    print(f"nginx killed for good on {lost}: {heir} answers after {took:.1f} seconds")
    assert through_it.ended, "the stream through the lost proxy goes on"
    assert direct.ended
    assert heirs.goes_on(), "a stream through the other proxy broke"
    assert owners(hosts) == [heir]

    after = stream(ADDRESS)
    hosts.execute(lost, ["systemctl", "start", "nginx.service"])
    stays(heir)
    assert owners(hosts) == [heir], "the proxy that came back has taken the address"
    assert after.goes_on(), "the return of a proxy broke a stream"


def test_a_pulled_cable_moves_it(hosts: TestHosts, addresses: dict[str, str], stream: Callable[[str], Stream]) -> None:
    lost = who()
    assert lost is not None
    heir = {"proxy1": "proxy2", "proxy2": "proxy1"}[lost]
    through_it, heirs = stream(ADDRESS), stream(addresses[heir])
    took = move(lambda: hosts.link_down(lost), heir)
    print(f"cable of {lost} pulled: {heir} answers after {took:.1f} seconds")
    assert not through_it.goes_on()
    assert heirs.goes_on(), "a stream through the other proxy broke"

    after = stream(ADDRESS)
    hosts.heal(lost)
    stays(heir)
    assert owners(hosts) == [heir], "the proxy that came back has taken the address"
    assert after.goes_on(), "the return of a proxy broke a stream"


def test_a_host_without_power_moves_it(hosts: TestHosts) -> None:
    lost = who()
    assert lost is not None
    heir = {"proxy1": "proxy2", "proxy2": "proxy1"}[lost]
    took = move(lambda: hosts.stop(lost, hard=True), heir)
    print(f"power of {lost} cut: {heir} answers after {took:.1f} seconds")
    hosts.start(lost)
    hosts.execute(lost, ["nft", "list", "table", "inet", "llm"])  # the firewall is there after a boot
    stays(heir)
    assert owners(hosts) == [heir], "the proxy that came back has taken the address"


def test_a_restarted_keepalived_gives_it_away(hosts: TestHosts) -> None:
    lost = who()
    assert lost is not None
    heir = {"proxy1": "proxy2", "proxy2": "proxy1"}[lost]
    took = move(lambda: hosts.execute(lost, ["systemctl", "restart", "keepalived.service"]), heir)
    print(f"keepalived of {lost} restarted: {heir} answers after {took:.1f} seconds")


def test_a_killed_keepalived_comes_back(hosts: TestHosts) -> None:
    first = who()
    assert first is not None
    hosts.execute(first, ["systemctl", "kill", "--signal=KILL", "keepalived.service"])
    # Until it is back, the address stays where it was; then it is the other one's, or its own again.
    time.sleep(1)
    until = time.monotonic() + MOVE_S
    while (found := who()) is None and time.monotonic() < until:
        time.sleep(0.05)
    assert hosts.execute(first, ["systemctl", "is-active", "keepalived"]).stdout.strip() == "active"
    assert owners(hosts) == [found]
