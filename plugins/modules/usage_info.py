#!/usr/bin/python
# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Module ``gpu_cluster.platform.usage_info``."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: usage_info
short_description: What clients have used on a node in a month
version_added: "0.3.0"
author: GPU Cluster Platform maintainers
description:
  - Adds up the book that the models' replicas of a node keep. Changes nothing.
  - A line that was cut, as by a full disk, is left out and told of.
options:
  directory:
    description: Where the book is.
    type: path
    required: true
  month:
    description: Such as C(2026-11), in UTC.
    type: str
    required: true
attributes:
  check_mode:
    description: Changes nothing, so it does the same in check mode.
    support: full
"""

EXAMPLES = r"""
- name: Read the node's book
  gpu_cluster.platform.usage_info:
    directory: /var/lib/llm/usage
    month: "2026-11"
"""

RETURN = r"""
clients:
  description:
    - An entry for each client and model.
    - C(answers) is the number of requests that got a first piece, and C(first_seconds) what they waited for it.
  returned: always
  type: list
  elements: dict
  sample:
    - {client: alice, model: demo/tiny-qwen2, requests: 2, failed: 0, answers: 2, prompt_tokens: 20, cached_tokens: 0,
       completion_tokens: 14, first_seconds: 0.2, seconds: 1.5}
unreadable:
  description: Number of lines that could not be read.
  returned: always
  type: int
"""

_SUMS = ("prompt_tokens", "cached_tokens", "completion_tokens", "seconds")


def add_up(lines: Any) -> tuple[list[dict[str, Any]], int]:
    """Add up a book's lines.

    Args:
        lines: of JSON, as the replicas write them.

    Returns:
        An entry for each client and model, and how many lines could not be read.
    """
    totals: dict[tuple[str, str], dict[str, Any]] = defaultdict(
        lambda: dict.fromkeys(("requests", "failed", "answers", "first_seconds", *_SUMS), 0)
    )
    unreadable = 0
    for line in lines:
        try:
            entry = json.loads(line)
            numbers = [entry[name] for name in _SUMS]
            status, first = entry["status"], entry["first_seconds"]
            total = totals[entry["client"], entry["model"]]
        except (ValueError, KeyError, TypeError):
            unreadable += 1
            continue
        for name, number in zip(_SUMS, numbers, strict=True):
            total[name] += number
        total["requests"] += 1
        total["failed"] += status >= 400
        if first is not None:
            total["answers"] += 1
            total["first_seconds"] += first
    return [{"client": client, "model": model, **total} for (client, model), total in totals.items()], unreadable


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "month": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    month = module.params["month"]
    parts = month.split("-")
    if [len(part) for part in parts] != [4, 2] or not all(part.isdigit() for part in parts):
        module.fail_json(msg=f"month = {month} is no month. Write it like 2026-11.")
    file = Path(module.params["directory"]) / f"usage-{month}.jsonl"
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            clients, unreadable = add_up(lines)
    except FileNotFoundError:
        clients, unreadable = [], 0
    except OSError as error:
        module.fail_json(msg=f"{file} can't be read: {error.strerror}.")
    if unreadable:
        module.warn(f"{file}: {unreadable} lines could not be read, and were left out.")
    module.exit_json(changed=False, clients=clients, unreadable=unreadable)


if __name__ == "__main__":
    main()
