# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with the hosts, found in what ``tasks/hosts.yml`` of the role ``preflight`` gathered of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .addresses import as_interface, network_interface
from .interconnect import interconnect_errors
from .inventory import ports_by_host
from .models import gpus_per_replica, replicas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .inventory import Hostvars, Roles


def node_gpus(hostvars: Hostvars, hosts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The GPUs of hosts, as far as their memory is known.

    Args:
        hostvars: host name to its variables: ``preflight_gpus``, and ``ansible_facts`` with ``llm_gpus``.
        hosts: the hosts.

    Returns:
        Host to its GPUs, each with ``name`` and ``memory_mib``, and ``count`` where the inventory says it. Empty for a
        host of which a GPU's memory isn't known, or whose GPUs are cut in pieces (MIG).
    """
    found = {}
    for host in hosts:
        variables = hostvars[host]
        seen = variables.get("ansible_facts", {}).get("llm_gpus", [])
        whole = all("memory_mib" in gpu and not gpu.get("mig_enabled") for gpu in seen)
        named = [{"name": gpu["name"], "memory_mib": gpu["memory_mib"]} for gpu in seen] if whole else []
        found[host] = variables.get("preflight_gpus") or named
    return found


def host_errors(
    hostvars: Hostvars,
    hosts: Sequence[str],
    *,
    models: Sequence[Mapping[str, Any]],
    flavour: str,
    roles: Roles,
    ports: Mapping[str, Sequence[str]],
    ray_hosts: Sequence[str],
    replica_hosts: Sequence[str],
    own_units: Sequence[str],
    distributions: Mapping[str, Sequence[str]],
    python_version: str,
    clock_skew_seconds: float,
    proxy_hosts: Sequence[str] = (),
    virtual_address: str = "",
) -> list[str]:
    """Return every error of the hosts, each with the host, the cause and the fix.

    Args:
        hostvars: host name to its variables: ``ansible_facts`` with ``llm_gpus``, ``llm_address``,
            ``llm_interconnect_interface``, and the results ``__preflight_sockets``, ``__preflight_sources``,
            ``__preflight_clock``.
        hosts: the hosts that were asked.
        models: the inventory's ``llm_models``, which are known to be right in themselves.
        flavour: ``cuda`` or ``cpu``.
        roles: role name to ``options`` and ``defaults``, as the lookup ``role_specs`` returns them.
        ports: name of a port's variable to the hosts that listen on it.
        ray_hosts: hosts of the Ray cluster.
        replica_hosts: hosts that run replicas.
        own_units: systemd units that may hold the platform's ports.
        distributions: supported distributions, name to versions.
        python_version: the oldest Python that a host may have, such as ``3.10``.
        clock_skew_seconds: how far two clocks may be apart.
        proxy_hosts: hosts that share the virtual address.
        virtual_address: the inventory's ``llm_virtual_address``, which is known to be right in itself, or empty.
    """
    needed = dict.fromkeys((*ray_hosts, *replica_hosts, *(host for names in ports.values() for host in names)))
    left_out = [host for host in needed if host not in hosts]
    if left_out:
        return [
            f"Hosts {', '.join(left_out)} were left out (--limit?), and the others' configuration needs their addresses"
            " and GPUs. Run without --limit."
        ]
    found = {host: hostvars[host] for host in hosts}
    listening = {host: numbers for host, numbers in ports_by_host(hostvars, roles, ports).items() if host in found}
    errors = []
    for host, variables in found.items():
        errors += system_errors(host, variables["ansible_facts"], distributions, python_version)
        errors += address_errors(host, variables, alone=len(hosts) == 1)
        errors += port_errors(host, variables["__preflight_sockets"]["sockets"], listening.get(host, {}), own_units)
        errors += source_errors(host, variables["__preflight_sources"]["results"], models)
    errors += clock_errors(
        {host: variables["__preflight_clock"]["stdout"] for host, variables in found.items()}, clock_skew_seconds
    )
    errors += interconnect_errors(hostvars, list(ray_hosts))
    errors += virtual_address_errors(hostvars, proxy_hosts, virtual_address)
    if flavour == "cuda":
        errors += gpu_errors(models, {host: len(found[host]["ansible_facts"]["llm_gpus"]) for host in replica_hosts})
    return errors


def system_errors(
    host: str, facts: Mapping[str, Any], distributions: Mapping[str, Sequence[str]], python_version: str
) -> list[str]:
    """What every host must be: a supported system with systemd, and Ansible root on it."""
    errors = []
    name, version = facts["distribution"], facts["distribution_version"]
    short = version if name == "Ubuntu" else facts["distribution_major_version"]
    if short not in distributions.get(name, ()):
        supported = ", ".join(f"{each} {release}" for each, releases in distributions.items() for release in releases)
        errors.append(f"Host {host} runs {name} {version}: not supported. Install one of {supported}.")
    if facts["service_mgr"] != "systemd":
        errors.append(
            f"Host {host} runs {facts['service_mgr']} as its first process, and the services are systemd units."
            " Boot it with systemd."
        )
    if facts["effective_user_id"] != 0:
        errors.append(
            f"Host {host}: Ansible is the user {facts['user_id']} there, not root. Set ansible_become: true,"
            " or ansible_user: root."
        )
    python = facts["python"]["version"]
    if (python["major"], python["minor"]) < tuple(int(part) for part in python_version.split(".")):
        errors.append(
            f"Host {host} has Python {python['major']}.{python['minor']} ({facts['python']['executable']}):"
            f" {python_version} or newer is needed. Install it, or set ansible_python_interpreter."
        )
    return errors


def address_errors(host: str, variables: Mapping[str, Any], *, alone: bool) -> list[str]:
    """The other nodes reach a host by an address that it really has; only a host alone may use its loopback."""
    address, facts = variables["llm_address"], variables["ansible_facts"]
    own = [*facts.get("all_ipv4_addresses", ()), *facts.get("all_ipv6_addresses", ())]
    if not address:
        return [
            f"llm_address of host {host} is not known: it has no default route. Set llm_address for it;"
            f" its addresses are {', '.join(own)}."
        ]
    if address in own or (alone and address == "127.0.0.1"):
        return []
    return [f"llm_address = {address}: host {host} has no such address. Set one of its own: {', '.join(own)}."]


def port_errors(
    host: str, sockets: Sequence[Mapping[str, Any]], numbers: Mapping[str, int], own_units: Sequence[str]
) -> list[str]:
    """A port that something else holds. What our own units hold is what a second run finds."""
    errors = []
    for name, port in numbers.items():
        holder = next(
            (socket for socket in sockets if socket["port"] == port and socket["unit"] not in own_units), None
        )
        if holder:
            process = f"{holder['process']} (pid {holder['pid']})" if holder["pid"] else "a process that can't be seen"
            unit = f" of {holder['unit']}" if holder["unit"] else ""
            errors.append(
                f"{name} = {port}: in use on host {host} by {process}{unit}. Stop that, or choose another port."
            )
    return errors


def source_errors(host: str, results: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]]) -> list[str]:
    """A model's directory is one that vLLM can load: it has a config.json."""
    errors = []
    for result in results:
        source = result["__preflight_item"]
        if result["stat"]["exists"]:
            continue
        paths = [f"llm_models[{number}].source" for number, model in enumerate(models) if model.get("source") == source]
        errors.append(
            f"{', '.join(paths)} = {source}: host {host} has no {source}/config.json. Copy the model there,"
            " on every host that runs replicas, or correct the path."
        )
    return errors


def virtual_address_errors(hostvars: Hostvars, proxies: Sequence[str], text: str) -> list[str]:
    """The proxies' common address has an interface on each of them, and is of the kind of their own addresses."""
    virtual = as_interface(text)
    if virtual is None:
        return []
    errors = []
    for host in proxies:
        variables = hostvars[host]
        own, facts = as_interface(variables["llm_address"]), variables["ansible_facts"]
        if own and own.ip == virtual.ip:
            errors.append(
                f"llm_virtual_address = {text}: this is the address of host {host}. Choose a free address in the"
                " network of the proxies."
            )
        elif own and own.version != virtual.version:
            errors.append(
                f"llm_virtual_address = {text}: host {host} has llm_address = {own.ip}, and VRRP carries IPv4 among"
                " IPv4 addresses and IPv6 among IPv6. Choose two of one kind."
            )
        elif not (variables.get("keepalived_interface") or network_interface(facts, text)):
            errors.append(
                f"llm_virtual_address = {text}: no network of host {host} holds it. Choose an address in a network that"
                f" all proxies have, or set keepalived_interface to one of {', '.join(facts.get('interfaces', ()))}."
            )
    return errors


def clock_errors(clocks: Mapping[str, str], limit: float) -> list[str]:
    """Clocks that are apart. Each is given as the host's time and the control node's when it asked, in seconds."""
    ahead = {host: float(pair.split()[0]) - float(pair.split()[1]) for host, pair in clocks.items()}
    if not ahead:
        return []
    first, last = min(ahead, key=ahead.__getitem__), max(ahead, key=ahead.__getitem__)
    skew = ahead[last] - ahead[first]
    if skew <= limit:
        return []
    return [
        f"The clock of host {last} is {skew:.0f} s ahead of host {first}'s, and {limit} s are allowed."
        " Set the wrong one right."
    ]


def gpu_errors(models: Sequence[Mapping[str, Any]], present: Mapping[str, int]) -> list[str]:
    """More GPUs asked than present: by all models at their smallest, or by one at its largest."""
    there = f"{', '.join(f'{host} has {count}' for host, count in present.items())}, {sum(present.values())} in all"
    asked: dict[str, int] = {}
    errors = []
    for number, model in enumerate(models):
        least, most = replicas(model)
        asked[f"llm_models[{number}] ({model['id']}: {least} x {gpus_per_replica(model)})"] = least * gpus_per_replica(
            model
        )
        if least < most and most * gpus_per_replica(model) > sum(present.values()):
            errors.append(
                f"llm_models[{number}].autoscaling.max = {most}: {model['id']} would take"
                f" {most} x {gpus_per_replica(model)} GPUs; {there}. Lower max, or add hosts."
            )
    if sum(asked.values()) > sum(present.values()):
        errors.append(
            f"llm_models ask for {sum(asked.values())} GPUs (replicas x GPUs of each): {', '.join(asked)}; {there}."
            " Lower replicas or tensor_parallel_size, take a model out, or add hosts."
        )
    return errors
