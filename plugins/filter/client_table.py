# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.client_table``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plugin_utils.clients import client_table

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENTATION = r"""
name: client_table
short_description: The API's clients as the proxies know them, with digests in the place of keys
version_added: "0.3.0"
author: GPU Cluster Platform maintainers
description:
  - From client to keys and limits makes digest of a key to client, and client to what it may.
options:
  _input:
    description: Client name to C(keys) and the rest, as C(llm_api_keys) has them.
    type: dict
    required: true
  limits:
    description: Limits of a client that has none of its own, and of an address where no client needs a key.
    type: dict
    required: true
  models:
    description: The models, with C(id) and C(aliases).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
table: "{{ llm_api_keys | gpu_cluster.platform.client_table(llm_limits, llm_models) }}"
"""

RETURN = r"""
_value:
  description: C(keys) (the SHA-256 of a key, in hexadecimal, to the client), C(clients), and the limits of C(everyone).
  type: dict
"""


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"client_table": client_table}
