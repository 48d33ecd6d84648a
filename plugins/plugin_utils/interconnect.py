# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Which network interface joins a node to the others, and what of the nodes' interfaces doesn't fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .inventory import Hostvars


class NoInterfaceError(ValueError):
    """No interface, or more than one, could be meant; the message says which there are, and what to set."""


def interface_of(facts: Mapping[str, Any], address: str, wanted: str) -> str:
    """The interface over which a node talks to the others.

    Args:
        facts: the host's ``ansible_facts``, with its network and ``llm_rdma_interfaces``.
        address: the one by which the others know the host.
        wanted: the interface that the inventory names, or ``auto``: the only one that can do RDMA (InfiniBand, RoCE),
            else the one with the address.

    Returns:
        Its name; empty for a host that is known by its loopback, and so is alone.

    Raises:
        NoInterfaceError: the wanted one isn't there or is down, or there are several with RDMA.
    """
    up = {name: found for name, found in interfaces(facts).items() if found.get("active") and found.get("ipv4")}
    if wanted != "auto":
        if wanted not in up:
            raise NoInterfaceError(
                f"llm_interconnect_interface = {wanted}: the host has no such interface with an address that is up."
                f" It has {', '.join(up)}."
            )
        return wanted
    own = next((name for name, found in up.items() if found["ipv4"]["address"] == address), "")
    rdma = [name for name in facts.get("llm_rdma_interfaces", ()) if name in up]
    if own == "lo" or own in rdma or not rdma:
        return "" if own == "lo" else own
    if len(rdma) > 1:
        raise NoInterfaceError(
            f"{', '.join(rdma)} can all do RDMA, and none has the host's address {address} ({own} has)."
            " Set llm_interconnect_interface to the one that joins the nodes."
        )
    return rdma[0]


def interfaces(facts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The host's interfaces by name; the names of facts have some characters replaced."""
    found = [fact for fact in facts.values() if isinstance(fact, dict) and "device" in fact]
    return {fact["device"]: fact for fact in found if fact["device"] in facts.get("interfaces", ())}


def interconnect_errors(hostvars: Hostvars, hosts: list[str]) -> list[str]:
    """What keeps nodes from talking to each other over their interfaces: none, different MTUs, or one MAC twice.

    Args:
        hostvars: host name to its variables: ``ansible_facts``, ``llm_address`` and ``llm_interconnect_interface``.
        hosts: the nodes. One alone talks to nobody.
    """
    if len(hosts) < 2:
        return []
    errors = []
    chosen: dict[str, Mapping[str, Any]] = {}
    for host in hosts:
        variables = hostvars[host]
        facts = variables["ansible_facts"]
        try:
            name = interface_of(facts, variables["llm_address"], variables["llm_interconnect_interface"])
        except NoInterfaceError as error:
            errors.append(f"Host {host}: {error}")
        else:
            if name:
                chosen[host] = interfaces(facts)[name]
    sizes = {host: found["mtu"] for host, found in chosen.items() if "mtu" in found}
    if len(set(sizes.values())) > 1:
        each = ", ".join(f"{host} {chosen[host]['device']} {mtu}" for host, mtu in sizes.items())
        errors.append(
            f"The nodes' interfaces have different MTUs ({each}): large messages get lost. Set the same on all."
        )
    seen: dict[str, str] = {}
    for host, found in chosen.items():
        other = seen.setdefault(found.get("macaddress", host), host)
        if other != host:
            errors.append(
                f"Hosts {other} and {host} have the same MAC address {found['macaddress']} (copies of one machine?):"
                " packets go to the wrong one. Give one of them another."
            )
    return errors
