# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.usage_csv``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plugin_utils.usage import usage_csv

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENTATION = r"""
name: usage_csv
short_description: What all nodes' books say of a month, as one table of CSV
version_added: "0.3.0"
author: GPU Cluster Platform maintainers
description:
  - A line for each client and model, with requests, failed requests, tokens and mean times.
options:
  _input:
    description: The C(clients) that M(gpu_cluster.platform.usage_info) returned on the nodes, as one list.
    type: list
    elements: dict
    required: true
  month:
    description: Such as C(2026-11).
    type: str
    required: true
"""

EXAMPLES = r"""
table: "{{ book.clients | gpu_cluster.platform.usage_csv('2026-11') }}"
"""

RETURN = r"""
_value:
  description: The table.
  type: str
"""


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"usage_csv": usage_csv}
