"""The month's table: what nodes' books add up to."""

from __future__ import annotations

import csv
import io
import json

from ansible_collections.gpu_cluster.platform.plugins.modules.usage_info import add_up
from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.usage import usage_csv


def line(client: str, model: str = "m", status: int = 200, first: float | None = 0.5, **tokens: int) -> str:
    numbers = {"prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 7} | tokens
    entry = {"client": client, "model": model, "status": status, "first_seconds": first, "seconds": 2.0, **numbers}
    return json.dumps(entry) + "\n"


def test_books_of_two_nodes_add_up() -> None:
    one, _ = add_up([line("alice"), line("alice", first=1.5), line("bob", "n")])
    other, _ = add_up([line("alice", status=499, first=None, completion_tokens=3)])
    table = list(csv.DictReader(io.StringIO(usage_csv([*one, *other], "2026-11"))))
    assert table == [
        {
            "month": "2026-11",
            "client": "alice",
            "model": "m",
            "requests": "3",
            "failed": "1",
            "prompt_tokens": "30",
            "cached_tokens": "12",
            "completion_tokens": "17",
            "mean_first_seconds": "1.000",
            "mean_seconds": "2.000",
        },
        {
            "month": "2026-11",
            "client": "bob",
            "model": "n",
            "requests": "1",
            "failed": "0",
            "prompt_tokens": "10",
            "cached_tokens": "4",
            "completion_tokens": "7",
            "mean_first_seconds": "0.500",
            "mean_seconds": "2.000",
        },
    ]


def test_a_cut_line_is_told_of_and_left_out() -> None:
    clients, unreadable = add_up([line("alice"), line("alice")[:50], "", "[]", line("alice")])
    assert unreadable == 3
    assert [entry["requests"] for entry in clients] == [2]


def test_no_requests_are_a_head_alone() -> None:
    assert usage_csv([], "2026-11").count("\n") == 1
