# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.nvidia_decision``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..plugin_utils.nvidia import decide

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DOCUMENTATION = r"""
name: nvidia_decision
short_description: What driver, fabric and toolkit a host with NVIDIA GPUs needs, and why
version_added: "0.2.0"
author: GPU Cluster Platform maintainers
description: Decides from the facts of M(gpu_cluster.platform.gpu_facts), without asking the host.
options:
  _input:
    description: The host's C(ansible_facts).
    type: dict
    required: true
  branch:
    description: Branch of the driver that is wanted, such as C(580).
    type: str
    required: true
  kernel_modules:
    description: Which kernel modules are wanted.
    type: str
    choices: [auto, open, proprietary]
    default: auto
  open_available:
    description: Whether the source of the packages has open kernel modules that work.
    type: bool
    default: true
  toolkits:
    description: Versions of the CUDA toolkit that are wanted; C(auto) is the newest that the driver knows.
    type: list
    elements: str
    default: []
  toolkit_drivers:
    description: Version of the CUDA toolkit to the driver that came with it.
    type: dict
    default: {}
"""

EXAMPLES = r"""
decision: "{{ ansible_facts | gpu_cluster.platform.nvidia_decision(branch='580') }}"
"""

RETURN = r"""
_value:
  description: The decision.
  type: dict
  contains:
    branch:
      description: The driver's branch; null where the host has no GPU.
      type: str
    kernel_modules:
      description: C(open) or C(proprietary); null where the host has no GPU.
      type: str
    fabric_manager:
      description: Whether FabricManager must run.
      type: bool
    subnet_manager:
      description: Whether the NVLink subnet manager must run.
      type: bool
    toolkits:
      description: Versions of the CUDA toolkit.
      type: list
      elements: str
    reasons:
      description: Why, a line for each decision.
      type: list
      elements: str
    errors:
      description: What can't be, each with the cause and the fix.
      type: list
      elements: str
"""


def nvidia_decision(
    facts: Mapping[str, Any],
    branch: str,
    kernel_modules: str = "auto",
    open_available: bool = True,
    toolkits: list[str] | None = None,
    toolkit_drivers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """See DOCUMENTATION."""
    decision = decide(
        facts["llm_gpus"],
        facts["llm_nvidia"]["nvswitches"],
        branch=branch,
        kernel_modules=kernel_modules,
        open_available=open_available,
        toolkits=toolkits or [],
        toolkit_drivers=toolkit_drivers or {},
    )
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(decision).items()}


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"nvidia_decision": nvidia_decision}
