"""What is decided for each machine, and which drivers don't fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible_collections.gpu_cluster.platform.plugins.filter.nvidia_decision import nvidia_decision
from ansible_collections.gpu_cluster.platform.plugins.filter.nvidia_drift import nvidia_drift
from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.nvidia import version_key

from .conftest import REPO, Machine
from .test_gpu_facts import gather

if TYPE_CHECKING:
    from collections.abc import Mapping

TOOLKITS: Mapping[str, str] = yaml.safe_load((REPO / "roles/cuda_toolkit/vars/main.yml").read_text())[
    "__cuda_toolkit_drivers"
]


def facts_of(*device_ids: tuple[str, str | None], nvswitches: int = 0) -> dict[str, Any]:
    """Facts of GPUs without a driver."""
    gpus = [{"pci_address": f"0000:{number:02x}:00.0", "device_id": each, "generation": generation}
            for number, (each, generation) in enumerate(device_ids)]  # fmt: skip
    return {"llm_gpus": gpus, "llm_nvidia": {"nvswitches": nvswitches}}


@pytest.mark.parametrize(
    ("machine", "kernel_modules", "fabric_manager", "subnet_manager", "toolkits"),
    [
        ("no_gpu", None, False, False, []),
        ("l4", "open", False, False, ["13.0"]),
        ("h100x8", "open", True, False, ["13.0"]),
        ("mismatch", "open", False, False, ["13.0"]),
        ("mig", "open", False, False, ["13.0"]),
        ("fallen_off", "open", True, False, ["13.0"]),
        ("v100", "proprietary", False, False, ["13.0"]),
        ("b200x8", "open", True, True, ["13.0"]),
    ],
    indirect=["machine"],
)
def test_decisions_for_the_machines(
    machine: Machine,
    kernel_modules: str | None,
    fabric_manager: bool,
    subnet_manager: bool,
    toolkits: list[str],
) -> None:
    decision = nvidia_decision(gather(machine), "580", toolkits=["auto"], toolkit_drivers=TOOLKITS)
    assert decision["errors"] == []
    assert decision["branch"] == (None if kernel_modules is None else "580")
    assert decision["kernel_modules"] == kernel_modules
    assert (decision["fabric_manager"], decision["subnet_manager"]) == (fabric_manager, subnet_manager)
    assert decision["toolkits"] == toolkits
    assert len(decision["reasons"]) == (1 if kernel_modules is None else 4)


VOLTA, TURING, AMPERE = ("0x1db6", "volta"), ("0x1eb8", "turing"), ("0x20b2", "ampere")
HOPPER, BLACKWELL, NEWER = ("0x2330", "hopper"), ("0x2bb5", "blackwell"), ("0x4000", None)


@pytest.mark.parametrize(
    ("facts", "options", "error"),
    [
        (facts_of(HOPPER), {"branch": "470"}, "GPUs of the hopper generation need branch 525 or newer, not 470."),
        (facts_of(VOLTA), {"branch": "590"}, "Branch 580 is the last one for GPUs of the volta generation, not 590."),
        (facts_of(VOLTA, BLACKWELL), {}, "No driver serves GPUs of the generations blackwell"),
        (facts_of(VOLTA), {"kernel_modules": "open"}, "The open modules don't serve GPUs of the volta generation."),
        (facts_of(BLACKWELL), {"kernel_modules": "proprietary"}, "The proprietary modules don't serve"),
        (facts_of(NEWER), {"kernel_modules": "proprietary"}, "of the unknown (0x4000) generation"),
        (facts_of(BLACKWELL), {"open_available": False}, "this branch or source of packages has none that work"),
        (facts_of(AMPERE), {"branch": "470", "kernel_modules": "open"}, "has none that work"),
        (facts_of(AMPERE), {"branch": "535", "toolkits": ["13.0"]}, "need a driver of branch 580 or newer, not 535."),
        (facts_of(AMPERE), {"toolkits": ["9.9"]}, "CUDA toolkit 9.9 is not known."),
        (facts_of(AMPERE), {"branch": "450", "toolkits": ["auto"]}, "No CUDA toolkit is known for branch 450."),
    ],
)
def test_what_can_not_be(facts: dict[str, Any], options: dict[str, Any], error: str) -> None:
    decision = nvidia_decision(facts, **{"branch": "580", "toolkit_drivers": TOOLKITS} | options)
    assert any(error in each for each in decision["errors"]), decision["errors"]


@pytest.mark.parametrize(
    ("facts", "options", "modules", "why"),
    [
        (facts_of(TURING, VOLTA), {}, "proprietary", "volta has no open ones"),
        (facts_of(AMPERE, BLACKWELL), {}, "open", "blackwell has no other"),
        (facts_of(AMPERE), {"open_available": False}, "proprietary", "no open ones that work"),
        (facts_of(AMPERE), {"branch": "470"}, "proprietary", "no open ones that work"),
        (facts_of(AMPERE), {"kernel_modules": "proprietary"}, "proprietary", "nvidia_driver_kernel_modules says"),
    ],
)
def test_kernel_modules(facts: dict[str, Any], options: dict[str, Any], modules: str, why: str) -> None:
    decision = nvidia_decision(facts, **{"branch": "580"} | options)
    assert decision["errors"] == []
    assert decision["kernel_modules"] == modules
    assert why in decision["reasons"][1]


def test_a_toolkit_newer_than_the_driver_is_said() -> None:
    decision = nvidia_decision(facts_of(AMPERE), "535", toolkits=["12.8", "12.2"], toolkit_drivers=TOOLKITS)
    assert decision["errors"] == []
    assert decision["toolkits"] == ["12.8", "12.2"]
    assert "12.8 is newer than the driver" in decision["reasons"][3]


def test_the_table_of_toolkits_rises() -> None:
    drivers = [version_key(TOOLKITS[version]) for version in sorted(TOOLKITS, key=version_key)]
    assert drivers == sorted(drivers)


def packages(**versions: str) -> dict[str, Any]:
    """What ``package_facts`` says of packages."""
    return {"packages": {name.replace("_", "-"): [{"version": version}] for name, version in versions.items()}}


NAMES = ["nvidia-kernel-dkms", "libcuda1", "nvidia-smi"]


@pytest.mark.parametrize(
    ("machine", "error"),
    [
        ("no_gpu", None),
        ("l4", None),
        ("h100x8", None),
        ("mig", None),
        ("mismatch", "The loaded kernel module is 580.95.05, the libraries on disk are 580.105.08"),
        ("fallen_off", "1 of 8 GPUs don't answer (0000:52:00.0): fallen off the bus."),
        ("v100", "No NVIDIA kernel module is loaded; none is installed"),
        ("b200x8", "nouveau has the GPUs: reboot the host."),
    ],
    indirect=["machine"],
)
def test_drift_of_the_machines(machine: Machine, error: str | None) -> None:
    errors = nvidia_drift(gather(machine) | packages(), NAMES)
    assert bool(errors) == (error is not None)
    assert error is None or any(error in each for each in errors), errors


@pytest.mark.parametrize("machine", ["l4"], indirect=True)
def test_drift_of_the_packages(machine: Machine) -> None:
    same = packages(nvidia_kernel_dkms="580.95.05-1", libcuda1="1:580.95.05-0ubuntu1", other="1.0")
    assert nvidia_drift(gather(machine) | same, NAMES) == []
    mixed = packages(nvidia_kernel_dkms="580.95.05-1", libcuda1="580.105.08-1")
    [error] = nvidia_drift(gather(machine) | mixed, NAMES)
    assert "580.105.08: libcuda1; 580.95.05: nvidia-kernel-dkms" in error


@pytest.mark.parametrize("machine", ["l4"], indirect=True)
def test_drift_of_the_module_on_disk(machine: Machine) -> None:
    (machine.path / "modinfo").write_text("#!/bin/sh\necho 580.105.08\n")
    [error] = nvidia_drift(gather(machine) | packages(), NAMES)
    assert "the one on disk is 580.105.08: the next boot changes the driver" in error
