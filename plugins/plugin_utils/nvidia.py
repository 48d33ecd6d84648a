# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a host with NVIDIA GPUs needs, decided from the facts of ``gpu_facts``, and what of it doesn't fit together.

Sources: NVIDIA's Driver Installation Guide (which modules for which GPUs: open ones from Turing on, nothing else from
Blackwell on), the supported products of the driver's release notes (oldest and last branch of a generation), the CUDA
Toolkit's release notes, tables "CUDA Toolkit and Corresponding Driver Versions" and "Minimum Required Driver Version
for CUDA Minor Version Compatibility", and the Fabric Manager user guide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class _Generation:
    """What drivers a generation of GPUs takes.

    Attributes:
        first: the oldest data-centre branch.
        last: the last branch; 0 where there is none yet.
        open: whether the open kernel modules work.
        proprietary: whether the proprietary ones do.
    """

    first: int
    last: int = 0
    open: bool = True
    proprietary: bool = True


_GENERATIONS = {
    "maxwell": _Generation(418, 580, open=False),
    "pascal": _Generation(418, 580, open=False),
    "volta": _Generation(418, 580, open=False),
    "turing": _Generation(418),
    "ampere": _Generation(450),
    "ada": _Generation(525),
    "hopper": _Generation(525),
    "blackwell": _Generation(570, proprietary=False),
}
# A generation that isn't known here is newer, and all newer ones are like this one.
_NEWEST = "blackwell"
# The first branch whose open modules are meant for data centres.
_FIRST_OPEN = 515
# Blackwell's NVSwitches are no PCI bridges: a board that has them is known by its GPUs (B200, B300).
_SWITCHED_DEVICES = ("0x2901", "0x3182")


@dataclass(frozen=True)
class Decision:
    """What a host needs.

    Attributes:
        branch: the driver's branch; None where no driver is needed.
        kernel_modules: ``open`` or ``proprietary``; None where no driver is needed.
        fabric_manager: whether FabricManager must run.
        subnet_manager: whether the NVLink subnet manager must run.
        toolkits: versions of the CUDA toolkit, such as ``13.0``.
        reasons: why, in the order of the fields.
        errors: what can't be, each with the cause and the fix.
    """

    branch: str | None
    kernel_modules: str | None
    fabric_manager: bool
    subnet_manager: bool
    toolkits: tuple[str, ...]
    reasons: tuple[str, ...]
    errors: tuple[str, ...]


def version_key(version: str) -> tuple[int, ...]:
    """Return a version such as ``580.95.05`` as numbers that compare."""
    return tuple(int(part) for part in version.split("."))


def decide(
    gpus: Sequence[Mapping[str, Any]],
    nvswitches: int,
    *,
    branch: str,
    kernel_modules: str,
    open_available: bool,
    toolkits: Sequence[str],
    toolkit_drivers: Mapping[str, str],
) -> Decision:
    """Decide what a host needs.

    Args:
        gpus: as ``gpu_facts`` returns them.
        nvswitches: number of NVSwitches that the PCI bus shows.
        branch: of the driver that is wanted, such as ``580``.
        kernel_modules: ``auto``, ``open`` or ``proprietary``.
        open_available: whether the packages' source has open modules that work.
        toolkits: versions of the CUDA toolkit that are wanted; ``auto`` is the newest that the driver knows.
        toolkit_drivers: version of the toolkit to the driver that came with it.
    """
    if not gpus:
        return Decision(None, None, False, False, (), ("the PCI bus shows no NVIDIA GPU",), ())
    errors = []
    number = int(branch)
    kinds = {gpu["generation"] or _NEWEST: gpu["generation"] or f"unknown ({gpu['device_id']})" for gpu in gpus}
    names = ", ".join(dict.fromkeys(kinds.values()))
    for kind, name in kinds.items():
        rule = _GENERATIONS[kind]
        if number < rule.first:
            errors.append(f"GPUs of the {name} generation need branch {rule.first} or newer, not {branch}.")
        if rule.last and number > rule.last:
            errors.append(f"Branch {rule.last} is the last one for GPUs of the {name} generation, not {branch}.")
    modules, why, module_errors = _kernel_modules(kinds, kernel_modules, open_available and number >= _FIRST_OPEN)
    switched = nvswitches > 0 or (len(gpus) > 1 and any(gpu["device_id"] in _SWITCHED_DEVICES for gpu in gpus))
    subnet = switched and "blackwell" in kinds
    chosen, toolkit_why, toolkit_errors = _toolkits(number, toolkits, toolkit_drivers)
    reasons = (
        f"driver {branch}: {len(gpus)} GPUs, {names}",
        f"{modules} kernel modules: {why}",
        _fabric_reason(switched, subnet, nvswitches),
        toolkit_why,
    )
    return Decision(branch, modules, switched, subnet, chosen, reasons, (*errors, *module_errors, *toolkit_errors))


def _kernel_modules(kinds: Mapping[str, str], wanted: str, open_available: bool) -> tuple[str, str, list[str]]:
    """Which modules, why, and what can't be."""
    only_proprietary = [name for kind, name in kinds.items() if not _GENERATIONS[kind].open]
    only_open = [name for kind, name in kinds.items() if not _GENERATIONS[kind].proprietary]
    errors = []
    if only_open and only_proprietary:
        errors.append(
            f"No driver serves GPUs of the generations {', '.join(only_open)} (open modules only) and"
            f" {', '.join(only_proprietary)} (proprietary modules only) in one host. Take one kind out."
        )
    if wanted == "open" and only_proprietary:
        errors.append(
            f"The open modules don't serve GPUs of the {', '.join(only_proprietary)} generation."
            " Set nvidia_driver_kernel_modules: auto."
        )
    if wanted == "proprietary" and only_open:
        errors.append(
            f"The proprietary modules don't serve GPUs of the {', '.join(only_open)} generation."
            " Set nvidia_driver_kernel_modules: auto."
        )
    if not open_available and (only_open or wanted == "open"):
        errors.append(
            "Open kernel modules are needed, and this branch or source of packages has none that work."
            " Set nvidia_driver_source: nvidia and a newer nvidia_driver_branch."
        )
    if wanted != "auto":
        return wanted, "as nvidia_driver_kernel_modules says", errors
    if only_proprietary:
        return "proprietary", f"{', '.join(only_proprietary)} has no open ones", errors
    if only_open:
        return "open", f"{', '.join(only_open)} has no other", errors
    if not open_available:
        return "proprietary", "this branch or source of packages has no open ones that work", errors
    return "open", "NVIDIA recommends them from Turing on", errors


def _fabric_reason(switched: bool, subnet: bool, nvswitches: int) -> str:
    if not switched:
        return "no FabricManager: no NVSwitch"
    seen = f"{nvswitches} NVSwitches" if nvswitches else "a board whose GPUs are joined by NVSwitches"
    return f"FabricManager{' and the NVLink subnet manager' if subnet else ''} of the driver's version: {seen}"


def _toolkits(branch: int, wanted: Sequence[str], drivers: Mapping[str, str]) -> tuple[tuple[str, ...], str, list[str]]:
    """Which toolkits, why, and what can't be."""
    known = [version for version in drivers if version_key(drivers[version])[0] <= branch]
    newest = max(known, key=version_key, default=None)
    chosen, errors = [], []
    for version in wanted:
        if version == "auto":
            if newest is None:
                errors.append(f"No CUDA toolkit is known for branch {branch}. Name one, or take auto out.")
            else:
                chosen.append(newest)
            continue
        if version not in drivers:
            errors.append(f"CUDA toolkit {version} is not known. Choose of {', '.join(drivers)}.")
            continue
        oldest = min((each for each in drivers if each.split(".")[0] == version.split(".")[0]), key=version_key)
        least = version_key(drivers[oldest])[0]
        if branch < least:
            errors.append(
                f"Programs of CUDA toolkit {version} need a driver of branch {least} or newer, not {branch}."
                f" Choose {newest} or older, or a newer nvidia_driver_branch."
            )
        chosen.append(version)
    late = [version for version in chosen if version_key(drivers[version])[0] > branch]
    why = f"toolkit {', '.join(chosen)}" if chosen else "no toolkit: vLLM's wheels carry what they need"
    if late and not errors:
        why += f"; {', '.join(late)} is newer than the driver, which runs its programs but not the PTX that it makes"
    return tuple(dict.fromkeys(chosen)), why, errors


def drift(facts: Mapping[str, Any], packages: Mapping[str, str]) -> list[str]:
    """What of a driver doesn't fit together.

    Args:
        facts: ``ansible_facts`` with ``llm_gpus``, ``llm_nvidia_driver`` and ``llm_nvidia``.
        packages: the driver's installed packages to their upstream versions, such as ``580.95.05``.

    Returns:
        Errors, each with what is loaded, what is installed, and the fix.
    """
    loaded, state = facts["llm_nvidia_driver"], facts["llm_nvidia"]
    library, on_disk, smi = state["library"], state["installed_module"], state["smi"]
    if not facts["llm_gpus"]:
        return []
    versions = sorted(set(packages.values()))
    errors = []
    if len(versions) > 1:
        of_version = "; ".join(
            f"{version}: {', '.join(sorted(name for name in packages if packages[name] == version))}"
            for version in versions
        )
        errors.append(
            f"The driver's packages are of different versions ({of_version}). Run the role nvidia_driver again."
        )
    if loaded is None:
        errors.append(
            f"No NVIDIA kernel module is loaded; {on_disk or 'none'} is installed for the running kernel."
            + (" nouveau has the GPUs: reboot the host." if state["nouveau_loaded"] else "")
        )
    elif library is not None and library != loaded:
        errors.append(
            f"The loaded kernel module is {loaded}, the libraries on disk are {library}: nothing can use the GPUs."
            " Reboot the host, or install the version that is loaded."
        )
    elif on_disk is not None and on_disk != loaded:
        errors.append(
            f"The loaded kernel module is {loaded}, the one on disk is {on_disk}: the next boot changes the driver."
            " Reboot the host, or install the version that is loaded."
        )
    if smi["state"] not in ("ok", "absent") and not errors:
        errors.append(f"nvidia-smi says: {smi['message']}")
    if state["lost_gpus"]:
        errors.append(
            f"{len(state['lost_gpus'])} of {len(facts['llm_gpus'])} GPUs don't answer"
            f" ({', '.join(state['lost_gpus'])}): fallen off the bus."
            " Look for Xid 79 in the kernel's log, and reboot the host; if they stay away, it is the hardware."
        )
    return errors
