# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.certificate_errors``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plugin_utils.certificates import certificate_errors

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENTATION = r"""
name: certificate_errors
short_description: Everything that is wrong with a given certificate and its key
version_added: "0.1.0"
author: GPU Cluster Platform maintainers
description:
  - Checks that key, chain, time and names fit together, on the control node. The key is never shown.
options:
  _input:
    description: Certificates in PEM, the server's own first.
    type: str
    required: true
  key:
    description: Its private key in PEM.
    type: str
    required: true
  names:
    description: DNS names and IP addresses that it must be valid for.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
errors: "{{ chain | gpu_cluster.platform.certificate_errors(key, ['llm.example.org']) }}"
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
        return {"certificate_errors": certificate_errors}
