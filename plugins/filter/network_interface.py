# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.network_interface``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plugin_utils.addresses import network_interface

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENTATION = r"""
name: network_interface
short_description: The interface whose network holds an address
version_added: "0.2.0"
author: GPU Cluster Platform maintainers
description:
  - The one with the longest prefix; containers' bridges don't count. The host may have the address already.
options:
  _input:
    description: The host's C(ansible_facts).
    type: dict
    required: true
  address:
    description: The address, with or without a prefix length.
    type: str
    required: true
"""

EXAMPLES = r"""
interface: "{{ ansible_facts | gpu_cluster.platform.network_interface('192.0.2.10') }}"  # eth0
"""

RETURN = r"""
_value:
  description: The interface's name; empty where no interface's network holds the address.
  type: str
"""


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"network_interface": network_interface}
