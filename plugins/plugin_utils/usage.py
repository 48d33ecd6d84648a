# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""The books of all nodes as one table."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SUMS = ("requests", "failed", "prompt_tokens", "cached_tokens", "completion_tokens")
TIMES = ("first_seconds", "seconds")
COLUMNS = ("month", "client", "model", *SUMS, "mean_first_seconds", "mean_seconds")


def usage_csv(books: Iterable[Mapping[str, Any]], month: str) -> str:
    """Return a line for each client and model, with a head, ordered by both.

    Args:
        books: entries of ``usage_info``, of any number of nodes.
        month: such as ``2026-11``.
    """
    totals: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for entry in books:
        total = totals[entry["client"], entry["model"]]
        for name in (*SUMS, *TIMES, "answers"):
            total[name] += entry[name]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for (client, model), total in sorted(totals.items()):
        means = (_mean(total["first_seconds"], total["answers"]), _mean(total["seconds"], total["requests"]))
        table.writerow((month, client, model, *(int(total[name]) for name in SUMS), *means))
    return text.getvalue()


def _mean(seconds: float, number: float) -> str:
    return f"{seconds / number:.3f}" if number else ""
