# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.nvidia_drift``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..plugin_utils.nvidia import drift

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DOCUMENTATION = r"""
name: nvidia_drift
short_description: What of a host's NVIDIA driver doesn't fit together
version_added: "0.2.0"
author: GPU Cluster Platform maintainers
description: Compares the loaded kernel module, the one on disk, the libraries, the packages, and what
    C(nvidia-smi) says.
options:
  _input:
    description: The host's C(ansible_facts), with those of M(gpu_cluster.platform.gpu_facts) and the packages.
    type: dict
    required: true
  packages:
    description: Names of the driver's packages, all of one version. Those that aren't installed don't count.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
errors: "{{ ansible_facts | gpu_cluster.platform.nvidia_drift(['libcuda1', 'nvidia-kernel-dkms']) }}"
"""

RETURN = r"""
_value:
  description: The errors, each with what is loaded, what is installed, and the fix.
  type: list
  elements: str
"""


def nvidia_drift(facts: Mapping[str, Any], packages: Sequence[str]) -> list[str]:
    """See DOCUMENTATION."""
    installed = facts["packages"]
    return drift(facts, {name: _upstream(installed[name][0]["version"]) for name in packages if name in installed})


def _upstream(version: str) -> str:
    """A Debian version without epoch and revision, and without Ubuntu's server suffix."""
    found = re.match(r"(?:[0-9]+:)?([0-9]+(?:\.[0-9]+)*)", version)
    return found.group(1) if found else version


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"nvidia_drift": nvidia_drift}
