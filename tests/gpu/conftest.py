"""The machines of ``machines/``: their sysfs, procfs and programs, as the module finds them on a host."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
MACHINES = Path(__file__).parent / "machines"
# 0000:31:00.0 3D controller [0302]: NVIDIA Corporation AD104GL [L4] [10de:27b8] (rev a1)
_DEVICE = re.compile(r"(\S+) .* \[([0-9a-f]{4})\]: .* \[([0-9a-f]{4}):([0-9a-f]{4})\]")


@dataclass(frozen=True)
class Machine:
    """A machine's files.

    Attributes:
        arguments: of the module ``gpu_facts``.
        path: a directory of programs (``nvidia-smi``, ``modinfo``) that stand for its own.
    """

    arguments: dict[str, Any]
    path: Path


def build(name: str, root: Path) -> Machine:
    """Lay a machine's files out as Linux does."""
    source = MACHINES / name
    for line in (source / "lspci").read_text().splitlines():
        found = _DEVICE.match(line)
        assert found, line
        address, kind, vendor, device = found.groups()
        directory = root / "sys/bus/pci/devices" / address
        directory.mkdir(parents=True)
        for file, value in {"class": f"{kind}00", "vendor": vendor, "device": device}.items():
            (directory / file).write_text(f"0x{value}\n")
    settings = yaml.safe_load((source / "machine.yml").read_text())
    libraries, programs = root / "lib", root / "bin"
    libraries.mkdir()
    programs.mkdir()
    if "library" in settings:
        (libraries / f"libnvidia-ml.so.{settings['library']}").touch()
        (libraries / "libnvidia-ml.so.1").symlink_to(f"libnvidia-ml.so.{settings['library']}")
    scripts = {"modinfo": "exit 1"}
    if "installed_module" in settings:
        scripts["modinfo"] = f"echo {settings['installed_module']}"
    if "nvidia_smi_status" in settings:
        output = shlex.quote(str(source / "nvidia-smi"))
        scripts["nvidia-smi"] = f"cat {output}; exit {settings['nvidia_smi_status']}"
    for program, script in scripts.items():
        (programs / program).write_text(f"#!/bin/sh\n{script}\n")
        (programs / program).chmod(0o755)
    arguments = {
        "sysfs_root": str(root / "sys"),
        "proc_root": str(source / "proc"),
        "library_dirs": [str(libraries)],
        "nvidia_smi": "nvidia-smi",
    }
    return Machine(arguments, programs)


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """The machine that the test's parameter names."""
    return build(request.param, tmp_path)
