# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.inventory_errors``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plugin_utils.inventory import inventory_errors

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENTATION = r"""
name: inventory_errors
short_description: Everything that is wrong with an inventory, found without any host
version_added: "0.1.0"
author: GPU Cluster Platform maintainers
description:
  - Checks the variables of all hosts against the roles' argument specs, and the relations that a spec can't say.
  - Each error names the variable, its value (never a secret's) and the fix.
options:
  _input:
    description: The magic variable C(hostvars).
    type: dict
    required: true
  groups:
    description: Group name to its hosts, for all groups of the inventory.
    type: dict
    required: true
  roles:
    description: What the lookup P(gpu_cluster.platform.role_specs#lookup) returns for the roles' directory.
    type: dict
    required: true
  ports:
    description: Name of a port's variable to the hosts that listen on it.
    type: dict
    default: {}
  port_ranges:
    description: Ranges of ports, each with C(first) and C(last), names of variables, and C(hosts).
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
errors: "{{ hostvars | gpu_cluster.platform.inventory_errors(groups, roles) }}"
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
        return {"inventory_errors": inventory_errors}
