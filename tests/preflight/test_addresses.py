"""From where the cluster's hosts talk, and where a shared address goes."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.addresses import cluster_addresses, network_interface


def interface(name: str, *addresses: str) -> dict[str, Any]:
    """Facts of an interface, as Ansible has them; the addresses are given as address/netmask or address/prefix."""
    found: dict[str, Any] = {"device": name, "active": True}
    for text in addresses:
        address, _, mask = text.partition("/")
        if ":" in address:
            found.setdefault("ipv6", []).append({"address": address, "prefix": mask, "scope": "global"})
        elif "ipv4" not in found:
            found["ipv4"] = {"address": address, "netmask": mask}
        else:
            found.setdefault("ipv4_secondaries", []).append({"address": address, "netmask": mask})
    return found


def host(address: str | None, *interfaces: dict[str, Any]) -> dict[str, Any]:
    """Variables of a host with these interfaces."""
    names = {each["device"]: each["device"].replace("-", "_") for each in interfaces}
    facts = {"interfaces": list(names), **{names[each["device"]]: each for each in interfaces}}
    return {"ansible_facts": facts} | ({"llm_address": address} if address else {})


LO = interface("lo", "127.0.0.1/255.0.0.0", "::1/128")
DOCKER = interface("docker0", "172.17.0.1/255.255.0.0")
ETH0 = interface("eth0", "10.0.0.1/255.255.255.0", "2001:db8::1/64", "fe80::1/64")


def test_a_host_may_talk_from_every_interface() -> None:
    hosts = {
        "gpu1": host("10.0.0.1", LO, ETH0, DOCKER, interface("ib0", "10.9.0.1/255.255.255.0")),
        "proxy1": host(
            "192.0.2.5", LO, interface("eth0", "192.0.2.5/255.255.255.0"), interface("eth1", "10.0.0.20/255.255.255.0")
        ),
        "unknown": host("10.0.0.3"),
    }
    assert cluster_addresses(hosts, list(hosts)) == ["10.0.0.1", "10.0.0.3", "10.0.0.20", "10.9.0.1", "192.0.2.5"]


def test_what_moves_and_what_is_nobodys_own_is_left_out() -> None:
    bridge = interface("br-lan", "192.168.0.1/255.255.255.0")
    hosts = {
        "a": host("10.0.0.1", LO, interface("eth0", "10.0.0.1/255.255.255.0", "10.0.0.99/255.255.255.255"), bridge),
        "b": host("10.0.0.2", LO, interface("eth0", "10.0.0.2/255.255.255.0"), bridge),
    }
    assert cluster_addresses(hosts, ["a", "b"], "10.0.0.99/24") == ["10.0.0.1", "10.0.0.2"]


def test_one_machine_under_two_names_is_still_there() -> None:
    hosts = {name: host("10.0.0.1", LO, ETH0) for name in ("head1", "proxy1")}
    assert cluster_addresses(hosts, ["head1", "proxy1"]) == ["10.0.0.1"]


def test_ipv6_where_the_hosts_are_known_by_it() -> None:
    hosts = {"a": host("2001:db8::1", LO, ETH0)}
    assert cluster_addresses(hosts, ["a"]) == ["2001:db8::1"]
    hosts |= {"b": host("10.0.0.2")}
    assert cluster_addresses(hosts, ["a", "b"]) == ["10.0.0.1", "10.0.0.2", "2001:db8::1"]


def test_interface_of_an_address() -> None:
    eth1 = interface("eth1", "10.0.0.130/255.255.255.128", "10.0.0.200/255.255.255.255")
    facts = host(None, LO, ETH0, eth1, DOCKER)["ansible_facts"]
    assert network_interface(facts, "10.0.0.9") == "eth0"
    assert network_interface(facts, "10.0.0.140/24") == "eth1"
    assert network_interface(facts, "10.0.0.200/32") == "eth1", "it has the address already"
    assert network_interface(facts, "2001:db8::9") == "eth0"
    assert network_interface(facts, "172.17.0.9") == ""
    assert network_interface(facts, "192.0.2.1") == ""
