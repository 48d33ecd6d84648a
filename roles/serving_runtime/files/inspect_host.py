#!/usr/bin/env python3
# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Say what this host has of what the serving runtime needs. Reads only.

Usage: inspect_host.py '{"venv": PATH, "marker": NAME, "lock_sha256": HEX, "want_mib": {PATH: MIB}}'

Prints JSON: ``python`` ("3.11"), ``platform`` ("linux-x86_64"), ``whole`` (the runtime at ``venv`` is complete, of this
lock and for this Python), ``disks``: for every file system that has to hold something, ``paths``, ``need_mib`` (without
what an earlier, cut-off run already put there) and ``free_mib``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def size_mib(path: Path) -> int:
    """What the files below a path occupy, 0 if there is none."""
    blocks = 0
    for directory, _names, files in os.walk(path):
        for name in files:
            blocks += os.lstat(os.path.join(directory, name)).st_blocks  # noqa: PTH118  # ten times faster here
    return blocks * 512 // 2**20


def existing(path: Path) -> Path:
    """The path itself or its nearest parent that exists."""
    return next(p for p in (path, *path.parents) if p.exists())


def disks(want_mib: dict[str, int]) -> list[dict[str, Any]]:
    """Need and room, one entry per file system: two paths may share one."""
    found: dict[int, dict[str, Any]] = {}
    for name, want in want_mib.items():
        place = existing(Path(name))
        stat = os.statvfs(place)
        free = stat.f_bavail * stat.f_frsize // 2**20
        disk = found.setdefault(place.stat().st_dev, {"paths": [], "need_mib": 0, "free_mib": free})
        disk["paths"].append(name)
        disk["need_mib"] += max(0, want - size_mib(Path(name)) - size_mib(Path(name + ".partial")))
    return list(found.values())


def marker(lock_sha256: str) -> str:
    """The content of a whole runtime's marker file."""
    return f"lock {lock_sha256} python {version()}\n"


def version() -> str:
    """This interpreter's version, as wheels count it."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request; its keys are in the module's docstring."""
    path = Path(request["venv"], request["marker"])
    whole = path.is_file() and path.read_text() == marker(request["lock_sha256"])
    return {
        "python": version(),
        "platform": f"{sys.platform}-{os.uname().machine}",
        "whole": whole,
        "disks": [] if whole else disks(request["want_mib"]),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1])), sort_keys=True))
