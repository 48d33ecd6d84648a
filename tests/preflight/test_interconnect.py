"""The choice of the interface between nodes, and what of the interfaces doesn't fit together."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.interconnect import (
    NoInterfaceError,
    interconnect_errors,
    interface_of,
)


def host(number: int = 1, *, rdma: tuple[str, ...] = (), mtu: int = 1500, wanted: str = "auto") -> dict[str, Any]:
    """A host with Ethernet, which has its address, and with two InfiniBand ports and a port that is down."""

    def interface(name: str, address: str, *, active: bool = True) -> dict[str, Any]:
        ipv4 = {"ipv4": {"address": address}} if address else {}
        return {"device": name, "active": active, "mtu": mtu, "macaddress": f"02:00:00:00:{number:02x}:01", **ipv4}

    facts = {
        "interfaces": ["lo", "eth-0", "ib0", "ib1", "eth1"],
        "lo": interface("lo", "127.0.0.1"),
        # Ansible replaces the hyphen in the fact's name.
        "eth_0": interface("eth-0", f"10.0.0.{number}"),
        "ib0": interface("ib0", f"10.1.0.{number}"),
        "ib1": interface("ib1", f"10.2.0.{number}"),
        "eth1": interface("eth1", "", active=False),
        "llm_rdma_interfaces": list(rdma),
    }
    return {"ansible_facts": facts, "llm_address": f"10.0.0.{number}", "llm_interconnect_interface": wanted}


@pytest.mark.parametrize(
    ("rdma", "wanted", "address", "name"),
    [
        ((), "auto", "10.0.0.1", "eth-0"),
        (("ib0",), "auto", "10.0.0.1", "ib0"),
        (("ib0", "eth1"), "auto", "10.0.0.1", "ib0"),
        (("ib0", "ib1"), "auto", "10.1.0.1", "ib0"),
        (("ib0", "ib1"), "ib1", "10.0.0.1", "ib1"),
        ((), "auto", "127.0.0.1", ""),
    ],
    ids=["ethernet", "the only RDMA", "the other is down", "it has the address", "chosen", "loopback"],
)
def test_choice(rdma: tuple[str, ...], wanted: str, address: str, name: str) -> None:
    assert interface_of(host(rdma=rdma)["ansible_facts"], address, wanted) == name


@pytest.mark.parametrize(
    ("rdma", "wanted", "words"),
    [
        (("ib0", "ib1"), "auto", "ib0, ib1 can all do RDMA"),
        ((), "eth1", "llm_interconnect_interface = eth1: the host has no such interface"),
        ((), "eth9", "It has lo, eth-0, ib0, ib1."),
    ],
)
def test_no_choice(rdma: tuple[str, ...], wanted: str, words: str) -> None:
    with pytest.raises(NoInterfaceError, match=words):
        interface_of(host(rdma=rdma)["ansible_facts"], "10.0.0.1", wanted)


def test_nodes_that_fit_together() -> None:
    assert interconnect_errors({"a": host(1), "b": host(2)}, ["a", "b"]) == []


def test_different_mtus() -> None:
    [error] = interconnect_errors({"a": host(1), "b": host(2, mtu=9000)}, ["a", "b"])
    assert "(a eth-0 1500, b eth-0 9000)" in error


def test_a_mac_twice() -> None:
    copy = host(1) | {"llm_address": "10.0.0.1"}
    [error] = interconnect_errors({"a": host(1), "b": copy}, ["a", "b"])
    assert "Hosts a and b have the same MAC address 02:00:00:00:01:01" in error


def test_every_host_without_a_choice_is_named() -> None:
    several = {name: host(number, rdma=("ib0", "ib1")) for number, name in enumerate("abc")}
    assert [error[:6] for error in interconnect_errors(several, list(several))] == ["Host a", "Host b", "Host c"]


def test_one_host_alone_talks_to_nobody() -> None:
    assert interconnect_errors({"a": host(rdma=("ib0", "ib1"))}, ["a"]) == []
