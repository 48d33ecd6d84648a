"""The checks of the hosts: what was gathered, wrong in one place, and the words of the message that a user needs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.hosts import host_errors

from .conftest import GROUPS, PORTS

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTS = GROUPS["all"]
GPU = {"pci_address": "0000:17:00.0", "device_id": "0x2330"}
MODELS: list[dict[str, Any]] = [
    {"id": "a", "source": "/srv/a", "replicas": 2, "tensor_parallel_size": 2},
    {"id": "b", "pipeline_parallel_size": 2, "autoscaling": {"min": 1, "max": 3, "target_ongoing_requests": 8}},
]


def gathered(number: int, gpus: int) -> dict[str, Any]:
    """What the role gathers of a host that is as it should be."""
    return {
        "llm_address": f"10.0.0.{number}",
        "llm_interconnect_interface": "auto",
        "ansible_facts": {
            "distribution": "Debian",
            "distribution_version": "12.9",
            "distribution_major_version": "12",
            "service_mgr": "systemd",
            "effective_user_id": 0,
            "user_id": "root",
            "python": {"version": {"major": 3, "minor": 11}, "executable": "/usr/bin/python3"},
            "all_ipv4_addresses": [f"10.0.0.{number}"],
            "llm_gpus": [GPU] * gpus,
        },
        "__preflight_sockets": {"sockets": []},
        "__preflight_sources": {"results": []},
        "__preflight_clock": {"stdout": "1000.5 1000.0"},
    }


@pytest.fixture
def hostvars() -> dict[str, Any]:
    """A head, two workers with four GPUs each, and a proxy."""
    return {host: gathered(number, 4 if host.startswith("worker") else 0) for number, host in enumerate(HOSTS)}


def check(roles: dict[str, Any], hostvars: dict[str, Any], **more: Any) -> list[str]:
    """Call the filter as the role does."""
    arguments: dict[str, Any] = {
        "models": MODELS,
        "flavour": "cuda",
        "roles": roles,
        "ports": PORTS,
        "ray_hosts": GROUPS["llm_cluster"],
        "replica_hosts": GROUPS["ray_workers"],
        "own_units": ["ray-head.service", "nginx.service"],
        "distributions": {"Debian": ["12", "13"], "Ubuntu": ["22.04", "24.04"]},
        "python_version": "3.10",
        "clock_skew_seconds": 10,
    }
    return host_errors(hostvars, HOSTS, **(arguments | more))


def fact(host: str, name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    """A host with another fact."""
    return lambda hostvars: hostvars[host]["ansible_facts"].update({name: value})


def listener(port: int, process: str | None, unit: str | None) -> Callable[[dict[str, Any]], Any]:
    """Somebody who listens on the proxy."""
    pid = 7 if process else None
    socket = {"port": port, "address": "0.0.0.0", "pid": pid, "process": process, "unit": unit}
    return lambda hostvars: hostvars["proxy1"]["__preflight_sockets"]["sockets"].append(socket)


def eth0(address: str, netmask: str = "255.255.255.0") -> dict[str, Any]:
    """Facts of a host with one interface."""
    return {
        "interfaces": ["lo", "eth0"],
        "eth0": {"device": "eth0", "active": True, "ipv4": {"address": address, "netmask": netmask}},
    }


@pytest.mark.parametrize(
    ("virtual", "more", "parts"),
    [
        ("10.0.0.9", {}, []),
        ("10.0.0.9/32", {}, []),
        ("10.0.0.3", {}, ["llm_virtual_address = 10.0.0.3: this is the address of host proxy1."]),
        ("2001:db8::9", {}, ["llm_virtual_address = 2001:db8::9: host proxy1 has llm_address = 10.0.0.3"]),
        ("10.1.0.9", {}, ["llm_virtual_address = 10.1.0.9: no network of host proxy1 holds it.", "one of lo, eth0."]),
        ("10.1.0.9", {"keepalived_interface": "eth0"}, []),
    ],
)
def test_virtual_address(
    roles: dict[str, Any], hostvars: dict[str, Any], virtual: str, more: dict[str, Any], parts: list[str]
) -> None:
    hostvars["proxy1"]["ansible_facts"] |= eth0("10.0.0.3")
    hostvars["proxy1"] |= more
    found = check(roles, hostvars, proxy_hosts=["proxy1"], virtual_address=virtual)
    assert len(found) == (1 if parts else 0), found
    assert [part for part in parts if part not in found[0]] == []


def no_source(hostvars: dict[str, Any]) -> None:
    """A model's directory that isn't there."""
    hostvars["worker2"]["__preflight_sources"]["results"] = [{"__preflight_item": "/srv/a", "stat": {"exists": False}}]


CASES: dict[str, tuple[Callable[[dict[str, Any]], Any], list[str]]] = {
    "distribution": (
        lambda hostvars: hostvars["worker1"]["ansible_facts"].update(distribution="Fedora", distribution_version="42"),
        ["Host worker1 runs Fedora 42", "Debian 12, Debian 13, Ubuntu 22.04, Ubuntu 24.04"],
    ),
    "release": (fact("worker1", "distribution_major_version", "11"), ["Host worker1 runs Debian"]),
    "no systemd": (fact("proxy1", "service_mgr", "sysvinit"), ["Host proxy1 runs sysvinit", "Boot it with systemd."]),
    "not root": (fact("head1", "effective_user_id", 1000), ["Host head1", "ansible_become"]),
    "old Python": (
        fact("head1", "python", {"version": {"major": 3, "minor": 9}, "executable": "/usr/bin/python3"}),
        ["Host head1 has Python 3.9 (/usr/bin/python3): 3.10 or newer"],
    ),
    "foreign address": (
        lambda hostvars: hostvars["head1"].update(llm_address="10.9.9.9"),
        ["llm_address = 10.9.9.9: host head1 has no such address.", "10.0.0.0"],
    ),
    "loopback of one of several": (
        lambda hostvars: hostvars["head1"].update(llm_address="127.0.0.1"),
        ["llm_address = 127.0.0.1: host head1 has no such address."],
    ),
    "no default route": (
        lambda hostvars: hostvars["head1"].update(llm_address=""),
        ["llm_address of host head1 is not known"],
    ),
    "port in use": (
        listener(18080, "apache2", "apache2.service"),
        ["llm_http_port = 18080: in use on host proxy1 by apache2 (pid 7) of apache2.service."],
    ),
    "port in use by no unit": (listener(18443, "nc", None), ["llm_https_port = 18443:", "by nc (pid 7). Stop that"]),
    "port in use by who knows whom": (listener(18443, None, None), ["by a process that can't be seen."]),
    "no model directory": (no_source, ["llm_models[0].source = /srv/a: host worker2 has no /srv/a/config.json."]),
    "clock": (
        lambda hostvars: hostvars["worker2"].update(__preflight_clock={"stdout": "1030.5 1000.0"}),
        ["The clock of host worker2 is 30 s ahead of host head1's, and 10 s are allowed."],
    ),
    "too few GPUs": (
        fact("worker2", "llm_gpus", [GPU]),
        ["llm_models ask for 6 GPUs", "llm_models[0] (a: 2 x 2)", "worker1 has 4, worker2 has 1, 5 in all"],
    ),
}


@pytest.mark.parametrize(("change", "parts"), CASES.values(), ids=CASES.keys())
def test_one_wrong_thing(
    roles: dict[str, Any], hostvars: dict[str, Any], change: Callable[[dict[str, Any]], Any], parts: list[str]
) -> None:
    change(hostvars)
    found = check(roles, hostvars)
    assert [part for part in parts if part not in found[-1]] == [], found
    assert len(found) == (2 if "6 GPUs" in found[-1] else 1), found  # autoscaling's max doesn't fit then either


def test_good_hosts_have_no_error(roles: dict[str, Any], hostvars: dict[str, Any]) -> None:
    assert check(roles, hostvars) == []


def test_ubuntu_counts_by_its_whole_version(roles: dict[str, Any], hostvars: dict[str, Any]) -> None:
    hostvars["head1"]["ansible_facts"].update(
        distribution="Ubuntu", distribution_version="22.04", distribution_major_version="22"
    )
    assert check(roles, hostvars) == []


def test_our_own_services_may_hold_their_ports(roles: dict[str, Any], hostvars: dict[str, Any]) -> None:
    listener(18080, "nginx", "nginx.service")(hostvars)
    listener(22, "sshd", "ssh.service")(hostvars)
    assert check(roles, hostvars) == []


def test_a_replica_that_autoscaling_could_never_place(roles: dict[str, Any], hostvars: dict[str, Any]) -> None:
    models = copy.deepcopy(MODELS)
    models[1]["autoscaling"]["max"] = 5
    found = check(roles, hostvars, models=models)
    assert len(found) == 1
    assert found[0].startswith("llm_models[1].autoscaling.max = 5: b would take 5 x 2 GPUs;")


def test_gpus_don_t_matter_to_the_cpu_runtime(roles: dict[str, Any], hostvars: dict[str, Any]) -> None:
    for variables in hostvars.values():
        variables["ansible_facts"] |= {"llm_gpus": []}
    assert check(roles, hostvars, flavour="cpu") == []


def test_hosts_that_limit_leaves_out(roles: dict[str, Any], hostvars: dict[str, Any]) -> None:
    needed = {"ray_hosts": [*GROUPS["llm_cluster"], "worker3"]}
    assert check(roles, hostvars, **needed)[0].startswith("Hosts worker3 were left out (--limit?)")
