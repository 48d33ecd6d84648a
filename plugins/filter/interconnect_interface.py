# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.interconnect_interface``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleFilterError

from ..plugin_utils.interconnect import NoInterfaceError, interface_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DOCUMENTATION = r"""
name: interconnect_interface
short_description: The network interface over which a node talks to the others
version_added: "0.2.0"
author: GPU Cluster Platform maintainers
description:
  - The only interface that can do RDMA (InfiniBand, RoCE), else the one that has the host's address.
  - Fails where several can do RDMA and none of them has the address.
options:
  _input:
    description: The host's C(ansible_facts), with those of M(gpu_cluster.platform.gpu_facts).
    type: dict
    required: true
  address:
    description: The address by which the other nodes know the host.
    type: str
    required: true
  wanted:
    description: The interface that the inventory names, or C(auto).
    type: str
    default: auto
"""

EXAMPLES = r"""
interface: "{{ ansible_facts | gpu_cluster.platform.interconnect_interface(llm_address) }}"  # ib0
"""

RETURN = r"""
_value:
  description: The interface's name; empty for a host that is known by its loopback.
  type: str
"""


def interconnect_interface(facts: Mapping[str, Any], address: str, wanted: str = "auto") -> str:
    """See DOCUMENTATION."""
    try:
        return interface_of(facts, address, wanted)
    except NoInterfaceError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"interconnect_interface": interconnect_interface}
