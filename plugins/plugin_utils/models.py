# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the inventory's list of models means, in one place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def slug(model_id: str) -> str:
    """Return the part of a route or file name that stands for a model.

    Lower-case; every run of other characters than ``[a-z0-9]`` becomes one ``-``.
    """
    return re.sub(r"[^a-z0-9]+", "-", model_id.lower()).strip("-")


def gpus_per_replica(model: Mapping[str, Any]) -> int:
    """Return the GPUs that one replica of a model needs: tensor times pipeline parallel size."""
    return int(model.get("tensor_parallel_size", 1)) * int(model.get("pipeline_parallel_size", 1))


def replicas(model: Mapping[str, Any]) -> tuple[int, int]:
    """Return the smallest and the largest number of replicas that a model may have."""
    autoscaling = model.get("autoscaling")
    if autoscaling:
        return int(autoscaling["min"]), int(autoscaling["max"])
    number = int(model.get("replicas", 1))
    return number, number
