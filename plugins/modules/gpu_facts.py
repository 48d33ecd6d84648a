#!/usr/bin/python
# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Module ``gpu_cluster.platform.gpu_facts``."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: gpu_facts
short_description: The NVIDIA GPUs of a host, and its loaded driver
version_added: "0.1.0"
author: GPU Cluster Platform maintainers
description:
  - Reads C(/sys/bus/pci) and C(/proc/driver/nvidia), so it needs neither a driver nor any program.
  - Changes nothing.
options:
  sysfs_root:
    description: Where sysfs is mounted.
    type: path
    default: /sys
  proc_root:
    description: Where procfs is mounted.
    type: path
    default: /proc
attributes:
  check_mode:
    description: Changes nothing, so it does the same in check mode.
    support: full
"""

EXAMPLES = r"""
- name: Look for NVIDIA GPUs
  gpu_cluster.platform.gpu_facts:
"""

RETURN = r"""
ansible_facts:
  description: Facts, which live under C(ansible_facts).
  returned: always
  type: dict
  contains:
    llm_gpus:
      description: The GPUs, in the order of their PCI addresses.
      type: list
      elements: dict
      sample: [{pci_address: "0000:17:00.0", device_id: "0x2330"}]
    llm_nvidia_driver:
      description: Version of the loaded kernel driver; null where none is loaded.
      type: str
      sample: "570.86.15"
"""

NVIDIA = "0x10de"
# Display controllers: VGA (desktop GPUs) and 3D (data centre GPUs). A card's audio and bridges have other classes.
GPU_CLASSES = ("0x0300", "0x0302")


def find_gpus(sysfs_root: Path) -> list[dict[str, str]]:
    """Return the ``pci_address`` and ``device_id`` of each NVIDIA GPU."""
    gpus = []
    for device in sorted(sysfs_root.glob("bus/pci/devices/*")):
        if read(device / "vendor") == NVIDIA and (read(device / "class") or "").startswith(GPU_CLASSES):
            gpus.append({"pci_address": device.name, "device_id": read(device / "device") or ""})
    return gpus


def find_driver(proc_root: Path) -> str | None:
    """Return the version in ``driver/nvidia/version``: the first line's first word of digits and dots."""
    text = read(proc_root / "driver" / "nvidia" / "version") or ""
    found = re.search(r"\b[0-9]+(\.[0-9]+)+\b", text)
    return found.group() if found else None


def read(file: Path) -> str | None:
    """Return a file's text, or None where it can't be read: a device may vanish meanwhile."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "sysfs_root": {"type": "path", "default": "/sys"},
            "proc_root": {"type": "path", "default": "/proc"},
        },
        supports_check_mode=True,
    )
    module.exit_json(
        ansible_facts={
            "llm_gpus": find_gpus(Path(module.params["sysfs_root"])),
            "llm_nvidia_driver": find_driver(Path(module.params["proc_root"])),
        }
    )


if __name__ == "__main__":
    main()
