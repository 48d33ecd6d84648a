# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.node_gpus``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plugin_utils.hosts import node_gpus

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENTATION = r"""
name: node_gpus
short_description: The GPUs of hosts, as far as their memory is known
version_added: "0.2.0"
author: GPU Cluster Platform maintainers
description:
  - What the inventory says of a host's GPUs (C(preflight_gpus)), else what M(gpu_cluster.platform.gpu_facts) found.
options:
  _input:
    description: The value of C(hostvars).
    type: dict
    required: true
  hosts:
    description: The hosts.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
gpus: "{{ hostvars | gpu_cluster.platform.node_gpus(groups['ray_workers']) }}"
"""

RETURN = r"""
_value:
  description:
    - Host to its GPUs, each with C(name) and C(memory_mib), and C(count) where the inventory says it. Empty for a
      host of which a GPU's memory isn't known, or whose GPUs are cut in pieces (MIG).
  type: dict
"""


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"node_gpus": node_gpus}
