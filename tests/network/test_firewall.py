"""What a stranger reaches of the cluster's hosts, and what they reach of each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testhosts import TestHosts

SSH, HTTP, HTTPS, OTHERS = 22, 18080, 18443, 9100
SERVE = 18000
# What listens on all hosts: the scenario's stand-ins for Ray, and an engine's port that can't be pinned.
RAY = [18379, 18380, 18387, 20000, 30000, 45678]
# And what could.
SILENT = [80, 443, 2024, 8404, 9101, 18265, 18381, 18382, 18383, 18388, 18444, 20999, 30999, 60000]
PORTS = [SSH, HTTP, HTTPS, OTHERS, SERVE, *RAY, *SILENT]
# What everybody reaches, and what the cluster itself does.
PUBLIC = {"node1": {SSH, OTHERS}, "proxy1": {SSH, OTHERS, HTTP, HTTPS}, "proxy2": {SSH, OTHERS, HTTP, HTTPS}}
INNER = {host: public | {*RAY} | ({SERVE} if host == "node1" else set()) for host, public in PUBLIC.items()}

SCAN = """
import concurrent.futures, json, socket, sys

def is_open(port):
    family, kind, _, _, (host, _, *more) = socket.getaddrinfo(sys.argv[1], port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port, *more)) == 0

ports = [int(port) for port in sys.argv[2:]]
with concurrent.futures.ThreadPoolExecutor(len(ports)) as pool:
    print(json.dumps([port for port, found in zip(ports, pool.map(is_open, ports)) if found]))
"""


def scan(hosts: TestHosts, source: str, address: str) -> set[int]:
    """The ports of an address that a host can connect to."""
    done = hosts.execute(source, ["python3", "-c", SCAN, address, *map(str, PORTS)])
    return set(json.loads(done.stdout))


def rules(hosts: TestHosts, host: str) -> str:
    """All rules of a host, without counters."""
    return hosts.execute(host, ["nft", "--stateless", "list", "ruleset"]).stdout


@pytest.mark.parametrize("host", PUBLIC)
def test_a_stranger_reaches_what_is_public(hosts: TestHosts, addresses: dict[str, str], host: str) -> None:
    assert scan(hosts, "outside1", addresses[host]) == PUBLIC[host]


@pytest.mark.parametrize("host", PUBLIC)
def test_a_stranger_reaches_no_more_by_link_local_ipv6(hosts: TestHosts, host: str) -> None:
    found = json.loads(hosts.execute(host, ["ip", "-json", "-6", "address", "show", "dev", "eth0"]).stdout)
    address = next(each["local"] for each in found[0]["addr_info"] if each["scope"] == "link")
    assert scan(hosts, "outside1", f"{address}%eth0") == PUBLIC[host]


@pytest.mark.parametrize(
    ("source", "target"),
    [("proxy1", "proxy2"), ("proxy2", "proxy1"), ("proxy1", "proxy1"), ("proxy1", "node1"), ("node1", "proxy2")],
)
def test_the_cluster_reaches_itself(hosts: TestHosts, addresses: dict[str, str], source: str, target: str) -> None:
    assert scan(hosts, source, addresses[target]) == INNER[target]


def test_the_proxies_reach_others(hosts: TestHosts, addresses: dict[str, str]) -> None:
    assert scan(hosts, "proxy1", addresses["outside1"]) == {SSH}


def test_a_stranger_may_ping(hosts: TestHosts, addresses: dict[str, str]) -> None:
    hosts.execute("outside1", ["ping", "-c", "1", "-W", "2", addresses["proxy1"]])


def test_what_is_forwarded_is_left_alone(hosts: TestHosts) -> None:
    assert "hook forward" not in rules(hosts, "proxy1")


@pytest.mark.parametrize("verb", ["reload", "restart", "stop", "start"])
def test_it_outlives_the_host_s_own_rules(hosts: TestHosts, addresses: dict[str, str], verb: str) -> None:
    before = rules(hosts, "proxy1") if verb != "start" else None
    hosts.execute("proxy1", ["systemctl", verb, "nftables"])
    if verb == "stop":  # it takes all tables away; the next start brings both back
        return
    hosts.execute(
        "proxy1", ["sh", "-c", "for i in 1 2 3 4 5; do nft list table inet llm && exit; sleep 0.2; done; exit 1"]
    )
    assert before in (None, rules(hosts, "proxy1"))
    assert "table inet operator" in rules(hosts, "proxy1")
    if verb == "start":
        assert scan(hosts, "outside1", addresses["proxy1"]) == PUBLIC["proxy1"]
