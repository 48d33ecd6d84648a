# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.model_slug``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plugin_utils.models import slug

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENTATION = r"""
name: model_slug
short_description: The part of a route, a unit or a file name that stands for a model
version_added: "0.1.0"
author: GPU Cluster Platform maintainers
description:
  - Lower-case; every run of characters outside C([a-z0-9]) becomes one C(-), and none is left at the ends.
options:
  _input:
    description: The model's C(id).
    type: str
    required: true
"""

EXAMPLES = r"""
route: "/m/{{ 'Qwen/Qwen2.5-32B-Instruct' | gpu_cluster.platform.model_slug }}"  # /m/qwen-qwen2-5-32b-instruct
"""

RETURN = r"""
_value:
  description: The slug.
  type: str
"""


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"model_slug": slug}
