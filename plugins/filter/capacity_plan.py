# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Filter ``gpu_cluster.platform.capacity_plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..plugin_utils.capacity import Gpu, Node, capacity_plan, plan_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DOCUMENTATION = r"""
name: capacity_plan
short_description: Whether the models fit into the GPUs, and what is left for requests
version_added: "0.2.0"
author: GPU Cluster Platform maintainers
description:
  - Computes from the models' C(config.json) what a replica takes of its GPUs, how many requests of full length the
    rest holds, and on which nodes the replicas find a place. Needs no GPU and no host.
  - Weights, and the bytes of a token's keys and values, are exact; the work space of a forward pass is an estimate.
options:
  _input:
    description: The value of C(llm_models).
    type: list
    elements: dict
    required: true
  gpus:
    description: Host that runs replicas to its GPUs, each a dict of C(name), C(memory_mib) and C(count).
    type: dict
    required: true
  configs:
    description: Model id to the content of its C(config.json). A model that is missing is planned without sizes.
    type: dict
    required: true
  weights:
    description: Model id to the bytes of its weights, where they are known better than from C(config.json).
    type: dict
    default: {}
"""

EXAMPLES = r"""
plan: "{{ llm_models | gpu_cluster.platform.capacity_plan(
  gpus={'gpu1': [{'name': 'NVIDIA L4', 'memory_mib': 23034, 'count': 4}]},
  configs={'Qwen/Qwen2.5-32B-Instruct': lookup('ansible.builtin.file', 'config.json') | from_json}) }}"
"""

RETURN = r"""
_value:
  description: The plan.
  type: dict
  contains:
    table:
      description: A line for each model, under a heading.
      type: list
      elements: str
    errors:
      description: What can't be, each with the model, the cause and the smallest change that helps.
      type: list
      elements: str
"""


def plan(
    models: Sequence[Mapping[str, Any]],
    *,
    gpus: Mapping[str, Sequence[Mapping[str, Any]]],
    configs: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, float] | None = None,
) -> dict[str, list[str]]:
    """See :data:`DOCUMENTATION`."""
    nodes = [
        Node(
            host,
            tuple(
                Gpu(str(kind["name"]), int(kind["memory_mib"]))
                for kind in kinds
                for _ in range(int(kind.get("count", 1)))
            ),
        )
        for host, kinds in gpus.items()
    ]
    rows, errors = capacity_plan(models, nodes, configs, weights or {})
    return {"table": plan_table(rows), "errors": errors}


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"capacity_plan": plan}
