# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""The addresses that a cluster's hosts talk from, and the interface that a shared address belongs on."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from .interconnect import interfaces

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .inventory import Hostvars

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

# Bridges and ends of containers and virtual machines, which come and go: no other host is behind them.
LOCAL_INTERFACE = re.compile(r"(docker|veth|virbr|podman|cni|cali|flannel|lxc|lxdbr|tap|vnet)|br-[0-9a-f]{12}\Z")


def cluster_addresses(hostvars: Hostvars, hosts: Sequence[str], virtual_address: str = "") -> list[str]:
    """Every address that a host of the cluster may talk from.

    A host with several interfaces talks from the address of the one that leads to the other host, which need not be its
    ``llm_address``. So all of them count, but for loopback, link-local and containers' addresses, those that two hosts
    have (other than as their ``llm_address``), and the virtual one, which moves. IPv6 counts where the hosts know each
    other by it.

    Args:
        hostvars: host name to its variables: ``ansible_facts`` with the network, and ``llm_address`` where it is known.
        hosts: the cluster's hosts.
        virtual_address: the proxies' common address, with or without a prefix length, or empty.
    """
    named = {host: as_address(hostvars[host].get("llm_address")) for host in hosts}
    versions = {address.version for address in named.values() if address} or {4}
    shared = as_interface(virtual_address)
    found: Counter[Address] = Counter()
    for host in hosts:
        found.update({each.ip for _, each in interface_addresses(hostvars[host].get("ansible_facts") or {})})
    usable = [
        address
        for address in {*found, *(address for address in named.values() if address)}
        if (found[address] < 2 or address in named.values())
        and address.version in versions
        and not (address.is_loopback or address.is_link_local)
        and not (shared and address == shared.ip)
    ]
    return [str(address) for address in sorted(usable, key=lambda each: (each.version, int(each)))]


def network_interface(facts: Mapping[str, Any], address: str) -> str:
    """The interface whose network holds an address, by the longest prefix; empty where none does.

    Args:
        facts: the host's ``ansible_facts``.
        address: with or without a prefix length. The host may have it already, as a proxy has the virtual one.
    """
    wanted = as_interface(address)
    if wanted is None:
        return ""
    holding = [
        (found.network.prefixlen, name)
        for name, found in interface_addresses(facts)
        if found.version == wanted.version and wanted.ip in found.network and found.ip != wanted.ip
    ]
    return max(holding, default=(0, ""))[1]


def interface_addresses(facts: Mapping[str, Any]) -> Iterator[tuple[str, Interface]]:
    """The addresses of a host's interfaces, with their networks. Containers' bridges are left out."""
    for name, found in interfaces(facts).items():
        if LOCAL_INTERFACE.match(name):
            continue
        for each in (*([found["ipv4"]] if found.get("ipv4") else ()), *found.get("ipv4_secondaries", ())):
            if each.get("address"):
                yield name, ipaddress.ip_interface(f"{each['address']}/{each.get('netmask') or 32}")
        for each in found.get("ipv6", ()):
            yield name, ipaddress.ip_interface(f"{each['address']}/{each['prefix']}")


def as_interface(text: Any) -> Interface | None:
    """An address with its network; None where the text is none."""
    try:
        return ipaddress.ip_interface(text) if isinstance(text, str) and text else None
    except ValueError:
        return None


def as_address(text: Any) -> Address | None:
    """An address; None where the text is none."""
    found = as_interface(text)
    return found.ip if found else None
