# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.cluster_addresses``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plugin_utils.addresses import cluster_addresses

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENTATION = r"""
name: cluster_addresses
short_description: Every address that a host of the cluster may talk from
version_added: "0.2.0"
author: GPU Cluster Platform maintainers
description:
  - All addresses of all hosts, as a host with several interfaces need not talk from its C(llm_address).
  - Left out are loopback, link-local and containers' addresses, those that two hosts have, and the virtual address.
options:
  _input:
    description: The magic variable C(hostvars), with the facts of the hosts.
    type: dict
    required: true
  hosts:
    description: The cluster's hosts.
    type: list
    elements: str
    required: true
  virtual_address:
    description: The proxies' common address, with or without a prefix length. It moves, so it is left out.
    type: str
    default: ""
"""

EXAMPLES = r"""
addresses: "{{ hostvars | gpu_cluster.platform.cluster_addresses(groups['all']) }}"
"""

RETURN = r"""
_value:
  description: The addresses, sorted.
  type: list
  elements: str
"""


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"cluster_addresses": cluster_addresses}
