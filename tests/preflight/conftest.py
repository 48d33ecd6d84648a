"""What the tests of the role preflight share."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpu_cluster.platform.plugins.lookup.role_specs import read_roles

REPO = Path(__file__).parents[2]
TOKEN = "T" * 40

GROUPS = {
    "all": ["head1", "worker1", "worker2", "proxy1"],
    "ungrouped": [],
    "llm_cluster": ["head1", "worker1", "worker2"],
    "ray_head": ["head1"],
    "ray_workers": ["worker1", "worker2"],
    "proxies": ["proxy1"],
}
PORTS = {
    "llm_http_port": ["proxy1"],
    "llm_https_port": ["proxy1"],
    "llm_serve_port": ["head1", "worker1", "worker2"],
    "llm_dashboard_port": ["head1"],
    "demo_node_gcs_port": ["head1"],
}
PORT_RANGES = [
    {"first": "demo_node_first_port", "last": "demo_node_last_port", "hosts": ["head1", "worker1", "worker2"]}
]

# A role that stands for any other: the tests shall not break when a real one gets another knob.
DEMO_ROLE = {
    "options": {
        "demo_node_gcs_port": {"type": "int"},
        "demo_node_first_port": {"type": "int"},
        "demo_node_last_port": {"type": "int"},
        "demo_node_storage": {"type": "str"},
        "demo_node_environment": {"type": "dict"},
    },
    "defaults": {"demo_node_gcs_port": 18379, "demo_node_first_port": 20000, "demo_node_last_port": 20999},
}


class Unrenderable(dict[str, Any]):
    """Variables of a host; those named raise when they are read, as Ansible's do."""

    def __init__(self, variables: dict[str, Any], *names: str) -> None:
        super().__init__(variables)
        self.update(dict.fromkeys(names))
        self.names = names

    def __getitem__(self, name: str) -> Any:
        if name in self.names:
            raise ValueError(f"'vault_{name}' is undefined")
        return super().__getitem__(name)


class Inventory:
    """A right inventory, which a test makes wrong in one place."""

    def __init__(self) -> None:
        self.groups: dict[str, list[str]] = copy.deepcopy(GROUPS)
        self.hostvars: dict[str, dict[str, Any]] = {
            host: {
                "inventory_hostname": host,
                "llm_models": [
                    {"id": "a/b", "aliases": ["c"]},
                    {"id": "d", "source": "/srv/d", "engine": {"dtype": "auto"}},
                ],
                "llm_ray_auth_token": TOKEN,
                "vault_llm_ray_auth_token": TOKEN,
            }
            for host in GROUPS["all"]
        }

    def set(self, name: str, value: Any, *hosts: str) -> None:
        """Set a variable of some hosts, or of all."""
        for host in hosts or self.groups["all"]:
            self.hostvars[host][name] = copy.deepcopy(value)

    def remove(self, name: str, *hosts: str) -> None:
        """Remove a variable of some hosts, or of all."""
        for host in hosts or self.groups["all"]:
            del self.hostvars[host][name]


@pytest.fixture
def inventory() -> Inventory:
    """A right inventory."""
    return Inventory()


@pytest.fixture(scope="session")
def roles() -> dict[str, dict[str, Any]]:
    """The real spec of preflight and of the roles whose variables have relations, and one other role."""
    real = read_roles(REPO / "roles")
    return {name: real[name] for name in ("preflight", "firewall", "keepalived", "ray_node")} | {"demo_node": DEMO_ROLE}
