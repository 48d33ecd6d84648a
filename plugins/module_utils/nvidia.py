# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a host says of its NVIDIA GPUs and their driver: sysfs, procfs, the libraries on disk, and ``nvidia-smi``.

Sources: the PCI ID database (classes and device IDs), ``/proc/driver/nvidia/version`` as the kernel module writes it,
and the XML of ``nvidia-smi -q -x`` with its DTD (drivers 535 to 580).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

NVIDIA = "0x10de"
# Display controllers: VGA (desktop GPUs) and 3D (data centre GPUs). A card's audio and bridges have other classes.
GPU_CLASSES = ("0x0300", "0x0302")
# NVSwitches are bridges of no standard kind.
SWITCH_CLASS = "0x0680"

# The chips of a generation have device IDs in blocks; first and last of each.
_GENERATIONS = (
    (0x1340, 0x143F, "maxwell"),
    (0x15F0, 0x15FF, "pascal"),
    (0x1600, 0x17FF, "maxwell"),
    (0x1B00, 0x1D7F, "pascal"),
    (0x1D80, 0x1DFF, "volta"),
    (0x1E00, 0x1FFF, "turing"),
    (0x2080, 0x20FF, "ampere"),
    (0x2180, 0x21FF, "turing"),
    (0x2200, 0x22FF, "ampere"),
    (0x2300, 0x237F, "hopper"),
    (0x2480, 0x25FF, "ampere"),
    (0x2680, 0x28FF, "ada"),
    (0x2900, 0x2FFF, "blackwell"),
    (0x3180, 0x31FF, "blackwell"),
)
# EFI's variable of Secure Boot: four bytes of attributes, then the value.
_SECURE_BOOT = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_LIBRARY = re.compile(r"libnvidia-ml\.so\.([0-9]+(?:\.[0-9]+)+)$")
_VERSION = re.compile(r"\b[0-9]+(?:\.[0-9]+)+\b")
# What nvidia-smi prints, by what it means; the numbers are NVML's return codes.
_SMI_ERRORS = (
    ("mismatch", re.compile(r"version mismatch", re.IGNORECASE)),
    ("gpu_lost", re.compile(r"GPU is lost|Unable to determine the device handle", re.IGNORECASE)),
    ("no_devices", re.compile(r"No devices were found", re.IGNORECASE)),
    ("no_driver", re.compile(r"couldn't communicate with the NVIDIA driver|Driver Not Loaded", re.IGNORECASE)),
)


# The status of timeout(1).
_TIMED_OUT = 124


def read(file: Path) -> str | None:
    """Return a file's text, or None where it can't be read: a device may vanish meanwhile."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def generation(device_id: str) -> str | None:
    """Return the generation of a PCI device ID such as ``0x2330``; None where it is unknown."""
    try:
        number = int(device_id, 16)
    except ValueError:
        return None
    return next((name for first, last, name in _GENERATIONS if first <= number <= last), None)


def find_gpus(sysfs_root: Path) -> list[dict[str, Any]]:
    """Return ``pci_address``, ``device_id`` and ``generation`` of each NVIDIA GPU, in the order of the addresses."""
    gpus = []
    for device in sorted(sysfs_root.glob("bus/pci/devices/*")):
        if read(device / "vendor") == NVIDIA and (read(device / "class") or "").startswith(GPU_CLASSES):
            device_id = read(device / "device") or ""
            gpus.append({"pci_address": device.name, "device_id": device_id, "generation": generation(device_id)})
    return gpus


def count_switches(sysfs_root: Path) -> int:
    """Return the number of NVSwitches."""
    return sum(
        read(device / "vendor") == NVIDIA and (read(device / "class") or "").startswith(SWITCH_CLASS)
        for device in sysfs_root.glob("bus/pci/devices/*")
    )


def find_rdma_interfaces(sysfs_root: Path) -> list[str]:
    """Return the network interfaces of devices that can do RDMA: InfiniBand, and Ethernet with RoCE."""
    return sorted({path.name for path in sysfs_root.glob("class/infiniband/*/device/net/*")})


def find_driver(proc_root: Path) -> tuple[str, str] | None:
    """Return the loaded driver's version, and ``open`` or ``proprietary``; None where none is loaded."""
    text = read(proc_root / "driver" / "nvidia" / "version") or ""
    found = _VERSION.search(text)
    return (found.group(), "open" if "Open Kernel Module" in text else "proprietary") if found else None


def find_library(library_dirs: list[Path]) -> str | None:
    """Return the version of the management library that programs load, from what ``libnvidia-ml.so.1`` points to."""
    for directory in library_dirs:
        found = _LIBRARY.search(str((directory / "libnvidia-ml.so.1").resolve()))
        if found:
            return found.group(1)
    return None


def is_module_loaded(proc_root: Path, name: str) -> bool:
    """Whether a kernel module is loaded."""
    return any(line.split(" ", 1)[0] == name for line in (read(proc_root / "modules") or "").splitlines())


def is_secure_boot(sysfs_root: Path) -> bool:
    """Whether the firmware loads only signed code; False also where it has no EFI."""
    try:
        return (sysfs_root / _SECURE_BOOT).read_bytes()[4:5] == b"\x01"
    except OSError:
        return False


def read_smi(status: int, output: str, errors: str) -> dict[str, Any]:
    """Understand what ``nvidia-smi -q -x`` said.

    Args:
        status: its exit status.
        output: what it wrote to its standard output.
        errors: what it wrote to its standard error.

    Returns:
        ``state``: ``ok``, ``mismatch`` (module and library are of different versions), ``gpu_lost``, ``no_devices``,
        ``no_driver`` or ``failed``; ``message``: its own words where the state isn't ``ok``; ``gpus``: one entry for
        each GPU that it could ask.
    """
    text = f"{output}\n{errors}"
    # It writes errors about one GPU beside the XML of the others.
    begin, end = output.find("<nvidia_smi_log>"), output.find("</nvidia_smi_log>")
    gpus = []
    if begin >= 0 and end >= 0:
        try:
            log = ElementTree.fromstring(output[begin : end + len("</nvidia_smi_log>")])
        except ElementTree.ParseError as error:
            return {"state": "failed", "message": f"nvidia-smi wrote XML that can't be read: {error}", "gpus": []}
        gpus = [_gpu(element) for element in log.iter("gpu")]
    for state, pattern in _SMI_ERRORS:
        found = next((line.strip() for line in text.splitlines() if pattern.search(line)), None)
        if found:
            return {"state": state, "message": found, "gpus": gpus}
    if status == 0 and begin >= 0:
        return {"state": "ok", "message": "", "gpus": gpus}
    if status == _TIMED_OUT:
        return {"state": "failed", "message": "it did not answer", "gpus": gpus}
    message = next((line.strip() for line in text.splitlines() if line.strip()), "it said nothing")
    return {"state": "failed", "message": f"exit status {status}: {message}", "gpus": gpus}


def _gpu(element: ElementTree.Element) -> dict[str, Any]:
    def text(path: str) -> str:
        return (element.findtext(path) or "").strip()

    memory = re.match(r"([0-9]+) MiB", text("fb_memory_usage/total"))
    domain, _, rest = element.get("id", "").lower().partition(":")
    return {
        # nvidia-smi writes the domain with eight digits, sysfs with four.
        "pci_address": f"{domain[-4:]}:{rest}",
        "name": text("product_name"),
        "uuid": text("uuid"),
        "memory_mib": int(memory.group(1)) if memory else None,
        "mig_enabled": text("mig_mode/current_mig") == "Enabled",
        "fabric_state": text("fabric/state") or None,
        "row_remap_pending": text("remapped_rows/remapped_row_pending") == "Yes",
        "row_remap_failed": text("remapped_rows/remapped_row_failure") == "Yes",
    }
