# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.host_errors``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plugin_utils.hosts import host_errors

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENTATION = r"""
name: host_errors
short_description: Everything that is wrong with the hosts, from what was gathered of them
version_added: "0.1.0"
author: GPU Cluster Platform maintainers
description:
  - Compares facts, GPUs, listening sockets, clocks and model directories with what the inventory asks for.
  - Each error names the host, the cause and the fix.
options:
  _input:
    description: The magic variable C(hostvars), after the tasks in C(tasks/hosts.yml) of the role C(preflight).
    type: dict
    required: true
  hosts:
    description: The hosts that were asked.
    type: list
    elements: str
    required: true
  roles:
    description: What the lookup P(gpu_cluster.platform.role_specs#lookup) returns for the roles' directory.
    type: dict
    required: true
  ports:
    description: Name of a port's variable to the hosts that listen on it.
    type: dict
    required: true
  models:
    description: The value of C(llm_models).
    type: list
    elements: dict
    required: true
  flavour:
    description: C(cuda) or C(cpu).
    type: str
    required: true
  ray_hosts:
    description: Hosts of the Ray cluster.
    type: list
    elements: str
    required: true
  replica_hosts:
    description: Hosts that run replicas.
    type: list
    elements: str
    required: true
  own_units:
    description: Systemd units that may hold the platform's ports.
    type: list
    elements: str
    required: true
  distributions:
    description: Supported distributions, name to versions.
    type: dict
    required: true
  python_version:
    description: The oldest Python that a host may have.
    type: str
    required: true
  clock_skew_seconds:
    description: How far two clocks may be apart.
    type: int
    required: true
"""

EXAMPLES = r"""
errors: "{{ hostvars | gpu_cluster.platform.host_errors(ansible_play_hosts_all, models=llm_models, flavour='cuda',
  roles=roles, ports=ports, ray_hosts=ray_hosts, replica_hosts=replica_hosts, own_units=['nginx.service'],
  distributions={'Debian': ['12']}, python_version='3.10', clock_skew_seconds=10) }}"
"""

RETURN = r"""
_value:
  description: The errors; empty when there are none.
  type: list
  elements: str
"""


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"host_errors": host_errors}
