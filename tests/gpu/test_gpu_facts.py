"""The module ``gpu_facts``, run as Ansible runs it, on machines whose hardware is made of files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.gpu_cluster.platform.plugins.module_utils.nvidia import (
    count_switches,
    find_driver,
    find_gpus,
    find_rdma_interfaces,
    generation,
    is_secure_boot,
    read_smi,
)

from .conftest import MACHINES, Machine, build

if TYPE_CHECKING:
    from pathlib import Path

MODULE = "ansible_collections.gpu_cluster.platform.plugins.modules.gpu_facts"


def gather(machine: Machine) -> dict[str, Any]:
    """What the module returns as facts."""
    done = subprocess.run(
        [sys.executable, "-m", MODULE, json.dumps({"ANSIBLE_MODULE_ARGS": machine.arguments})],
        env=os.environ | {"PATH": f"{machine.path}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
        text=True,
    )
    facts: dict[str, Any] = json.loads(done.stdout)["ansible_facts"]
    return facts


EXPECTED: dict[str, dict[str, Any]] = {
    "no_gpu": {"gpus": 0, "driver": None, "smi": "absent"},
    "l4": {"gpus": 1, "generation": "ada", "driver": "580.95.05", "smi": "ok", "memory_mib": 23034},
    "h100x8": {
        "gpus": 8,
        "generation": "hopper",
        "driver": "580.95.05",
        "smi": "ok",
        "memory_mib": 81559,
        "nvswitches": 4,
        "fabric_state": "Completed",
    },
    "mismatch": {"gpus": 1, "generation": "ada", "driver": "580.95.05", "smi": "mismatch", "library": "580.105.08"},
    "mig": {"gpus": 1, "generation": "ampere", "driver": "580.95.05", "smi": "ok", "mig_enabled": True},
    "fallen_off": {
        "gpus": 8,
        "generation": "hopper",
        "driver": "580.95.05",
        "smi": "gpu_lost",
        "lost_gpus": ["0000:52:00.0"],
        "nvswitches": 4,
    },
    "v100": {"gpus": 1, "generation": "volta", "driver": None, "smi": "absent"},
    "b200x8": {"gpus": 8, "generation": "blackwell", "driver": None, "smi": "absent", "nouveau_loaded": True},
}


def test_every_machine_is_expected() -> None:
    assert {path.name for path in MACHINES.iterdir() if path.is_dir()} == set(EXPECTED)


@pytest.mark.parametrize(("machine", "expected"), EXPECTED.items(), ids=EXPECTED, indirect=["machine"])
def test_what_a_machine_says(machine: Machine, expected: dict[str, Any]) -> None:
    facts = gather(machine)
    state = facts["llm_nvidia"]
    assert len(facts["llm_gpus"]) == expected["gpus"]
    assert {gpu["generation"] for gpu in facts["llm_gpus"]} == ({expected["generation"]} if expected["gpus"] else set())
    assert facts["llm_nvidia_driver"] == expected["driver"]
    assert state["smi"]["state"] == expected["smi"]
    assert bool(state["smi"]["message"]) == (expected["smi"] not in ("ok", "absent"))
    assert state["library"] == expected.get("library", expected["driver"])
    assert state["installed_module"] == expected.get("library", expected["driver"])
    assert state["loaded_kernel_modules"] == ("open" if expected["driver"] else None)
    assert state["lost_gpus"] == expected.get("lost_gpus", [])
    assert state["nvswitches"] == expected.get("nvswitches", 0)
    assert state["nouveau_loaded"] == expected.get("nouveau_loaded", False)
    assert state["secure_boot"] is False
    for gpu in facts["llm_gpus"]:
        # What nvidia-smi says of a GPU stands beside what the bus says of it.
        answers = expected["smi"] in ("ok", "gpu_lost") and gpu["pci_address"] not in state["lost_gpus"]
        assert ("memory_mib" in gpu) == answers
        for key in ("memory_mib", "mig_enabled", "fabric_state"):
            if answers and key in expected:
                assert gpu[key] == expected[key]


@pytest.mark.parametrize(
    ("status", "output", "state", "message"),
    [
        (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "no_driver", "failed"),
        (6, "No devices were found", "no_devices", "No devices"),
        (124, "", "failed", "did not answer"),
        (255, "Segmentation fault", "failed", "exit status 255: Segmentation fault"),
        (0, "<nvidia_smi_log><gpu></nvidia_smi_log>", "failed", "can't be read"),
    ],
)
def test_a_program_in_trouble(status: int, output: str, state: str, message: str) -> None:
    answer = read_smi(status, output, "")
    assert answer["state"] == state
    assert message in answer["message"]


@pytest.mark.parametrize(
    ("device_id", "name"),
    [
        ("0x1eb8", "turing"),  # T4
        ("0x20b2", "ampere"),  # A100 SXM4 80GB
        ("0x2236", "ampere"),  # A10
        ("0x26b9", "ada"),  # L40S
        ("0x2335", "hopper"),  # H200
        ("0x2bb5", "blackwell"),  # RTX PRO 6000 Server
        ("0x3182", "blackwell"),  # B300
        ("0x4000", None),
        ("", None),
    ],
)
def test_generation(device_id: str, name: str | None) -> None:
    assert generation(device_id) == name


def test_secure_boot(tmp_path: Path) -> None:
    machine = build("l4", tmp_path)
    variable = tmp_path / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\x06\x00\x00\x00\x01")
    assert gather(machine)["llm_nvidia"]["secure_boot"] is True
    variable.write_bytes(b"\x06\x00\x00\x00\x00")
    assert not is_secure_boot(tmp_path / "sys")


# A desktop card with its audio function, an NVSwitch, and another maker's display.
PCI = {
    "0000:1b:00.0": ("0x10de", "0x2330", "0x030200"),
    "0000:07:00.0": ("0x10de", "0x22a3", "0x068000"),
    "0000:01:00.0": ("0x10de", "0x2684", "0x030000"),
    "0000:01:00.1": ("0x10de", "0x22ba", "0x040300"),
    "0000:00:02.0": ("0x8086", "0x4680", "0x030000"),
}


def test_gpus_are_display_controllers_of_nvidia(tmp_path: Path) -> None:
    for name, values in PCI.items():
        device = tmp_path / "bus/pci/devices" / name
        device.mkdir(parents=True)
        for file, value in zip(("vendor", "device", "class"), values, strict=True):
            (device / file).write_text(f"{value}\n")
    assert [gpu["device_id"] for gpu in find_gpus(tmp_path)] == ["0x2684", "0x2330"]
    assert count_switches(tmp_path) == 1
    assert find_gpus(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U16)\n",
            ("570.86.15", "open"),
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.216.01  Tue Sep 17 16:54:04 UTC 2024\n",
            ("535.216.01", "proprietary"),
        ),
        ("", None),
    ],
)
def test_driver(tmp_path: Path, text: str, driver: tuple[str, str] | None) -> None:
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    (tmp_path / "driver/nvidia/version").write_text(text)
    assert find_driver(tmp_path) == driver


def test_rdma_interfaces(tmp_path: Path) -> None:
    for device, interface in {"mlx5_0": "ib0", "mlx5_1": "ens1f0np0"}.items():
        (tmp_path / "class/infiniband" / device / "device/net" / interface).mkdir(parents=True)
    assert find_rdma_interfaces(tmp_path) == ["ens1f0np0", "ib0"]
    assert find_rdma_interfaces(tmp_path / "none") == []
