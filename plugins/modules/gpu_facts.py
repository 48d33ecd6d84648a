#!/usr/bin/python
# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Module ``gpu_cluster.platform.gpu_facts``."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.nvidia import (
    count_switches,
    find_driver,
    find_gpus,
    find_library,
    find_rdma_interfaces,
    is_module_loaded,
    is_secure_boot,
    read_smi,
)

DOCUMENTATION = r"""
module: gpu_facts
short_description: The NVIDIA GPUs of a host, the state of their driver, and the interfaces that can do RDMA
version_added: "0.1.0"
author: GPU Cluster Platform maintainers
description:
  - Reads C(/sys), C(/proc) and the libraries on disk, so it needs neither a driver nor any program to find the GPUs.
  - Where there is an C(nvidia-smi), asks it for each GPU's name and memory.
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
  library_dirs:
    description: Directories of the driver's libraries, in the order in which the linker looks at them.
    type: list
    elements: path
    default: [/usr/lib/x86_64-linux-gnu, /usr/lib/aarch64-linux-gnu, /usr/lib64]
  nvidia_smi:
    description: The program C(nvidia-smi), a name in the search path or a path.
    type: str
    default: nvidia-smi
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
      description:
        - The GPUs that the PCI bus shows, in the order of their addresses.
        - The generation is null where the device ID is newer than this module. What C(nvidia-smi) adds (name, uuid,
          memory_mib, mig_enabled, fabric_state, row_remap_pending, row_remap_failed) is there for a GPU that answers.
      type: list
      elements: dict
      sample: [{pci_address: "0000:17:00.0", device_id: "0x2330", generation: hopper, name: NVIDIA H100 80GB HBM3}]
    llm_nvidia_driver:
      description: Version of the loaded kernel driver; null where none is loaded.
      type: str
      sample: "570.86.15"
    llm_rdma_interfaces:
      description: Network interfaces that can do RDMA (InfiniBand, RoCE), up or not.
      type: list
      elements: str
      sample: [ib0]
    llm_nvidia:
      description: The state of the driver.
      type: dict
      contains:
        loaded_kernel_modules:
          description: C(open) or C(proprietary); null where no driver is loaded.
          type: str
        installed_module:
          description: Version of the kernel module on disk for the running kernel; null where there is none.
          type: str
        library:
          description: Version of the libraries on disk; null where there are none.
          type: str
        smi:
          description:
            - Its C(state), one of C(ok), C(absent), C(mismatch) (the loaded module and the libraries are of different
              versions), C(gpu_lost), C(no_devices), C(no_driver) and C(failed), and the C(message) that it wrote.
          type: dict
        lost_gpus:
          description: PCI addresses of GPUs that the bus shows and C(nvidia-smi) does not.
          type: list
          elements: str
        nvswitches:
          description: Number of NVSwitches.
          type: int
        nouveau_loaded:
          description: Whether the kernel's own driver has the GPUs.
          type: bool
        secure_boot:
          description: Whether the firmware loads only signed code.
          type: bool
"""


_SMI_SECONDS = 60


def installed_module(module: AnsibleModule) -> str | None:
    """Return the version of the kernel module that would be loaded now."""
    program = module.get_bin_path("modinfo", opt_dirs=["/usr/sbin", "/sbin"])
    if not program:
        return None
    status, output, _ = module.run_command([program, "--field", "version", "nvidia"])
    return output.strip() or None if status == 0 else None


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "sysfs_root": {"type": "path", "default": "/sys"},
            "proc_root": {"type": "path", "default": "/proc"},
            "library_dirs": {
                "type": "list",
                "elements": "path",
                "default": ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"],
            },
            "nvidia_smi": {"type": "str", "default": "nvidia-smi"},
        },
        supports_check_mode=True,
    )
    sysfs_root, proc_root = Path(module.params["sysfs_root"]), Path(module.params["proc_root"])
    gpus = find_gpus(sysfs_root)
    driver = find_driver(proc_root)
    smi = {"state": "absent", "message": "", "gpus": []}
    program = module.get_bin_path(module.params["nvidia_smi"])
    if program:
        # A GPU that has fallen off the bus can make it wait for ever.
        smi = read_smi(*module.run_command(["timeout", str(_SMI_SECONDS), program, "-q", "-x"]))
    answered = {each["pci_address"]: each for each in smi.pop("gpus")}
    addresses = [gpu["pci_address"] for gpu in gpus] if smi["state"] in ("ok", "gpu_lost") else []
    module.exit_json(
        ansible_facts={
            "llm_gpus": [gpu | answered.get(gpu["pci_address"], {}) for gpu in gpus],
            "llm_nvidia_driver": driver[0] if driver else None,
            "llm_rdma_interfaces": find_rdma_interfaces(sysfs_root),
            "llm_nvidia": {
                "loaded_kernel_modules": driver[1] if driver else None,
                "installed_module": installed_module(module),
                "library": find_library([Path(each) for each in module.params["library_dirs"]]),
                "smi": smi,
                "lost_gpus": [address for address in addresses if address not in answered],
                "nvswitches": count_switches(sysfs_root),
                "nouveau_loaded": is_module_loaded(proc_root, "nouveau"),
                "secure_boot": is_secure_boot(sysfs_root),
            },
        }
    )


if __name__ == "__main__":
    main()
