"""Control groups: one tree a network, one group a host, below the machine's cgroup2 mount."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from .errors import MachineError

_MOUNTS = Path("/proc/self/mounts")


def cgroup2_mount(mounts: str | None = None) -> Path:
    """Where cgroup2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside version 1.

    Args:
        mounts: the text of /proc/self/mounts, for tests.

    Raises:
        MachineError: nowhere.
    """
    found = [row.split()[1] for row in (mounts or _MOUNTS.read_text()).splitlines() if row.split()[2] == "cgroup2"]
    for wanted in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if wanted in found:
            return Path(wanted)
    raise MachineError(
        "cgroup2 is not mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified; hosts need it. Boot the machine with a "
        "unified hierarchy (systemd.unified_cgroup_hierarchy=1), or run on a machine or VM that has it"
    )


def make(relative: str) -> Path:
    """Make a control group with its parents, and let the controllers that there are reach it where possible."""
    path = cgroup2_mount()
    for part in Path(relative).parts:
        path = path / part
        path.mkdir(exist_ok=True)
        if path != cgroup2_mount() / relative:
            _pass_controllers_on(path)
    return path


def _pass_controllers_on(path: Path) -> None:
    for controller in (path / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # threaded-only and busy controllers: hosts boot without them
            (path / "cgroup.subtree_control").write_text(f"+{controller}")


def enter(path: Path, pid: int) -> None:
    """Move a process into a control group."""
    (path / "cgroup.procs").write_text(str(pid))


def processes(relative: str) -> list[int]:
    """The processes of a control group and of everything below it."""
    found: list[int] = []
    for directory, _, _ in os.walk(cgroup2_mount() / relative):
        with contextlib.suppress(OSError):  # it went away meanwhile
            found += [int(row) for row in (Path(directory) / "cgroup.procs").read_text().split()]
    return [pid for pid in found if pid > 0]


def kill(relative: str, timeout_seconds: float = 10) -> bool:
    """SIGKILL every process of a control group; False if some are still there at the end.

    Membership of our own group is the proof that a process is ours.
    """
    deadline = time.monotonic() + timeout_seconds
    while pids := processes(relative):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def remove(relative: str, timeout_seconds: float = 5) -> bool:
    """Remove a control group with everything below it; False if something holds it.

    systemd-nspawn mirrors the path in the `name=systemd` hierarchy where there is one: that goes too.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        left = False
        for root in (cgroup2_mount(), Path("/sys/fs/cgroup/systemd")):
            left |= not _remove_tree(root / relative)
        if not left or time.monotonic() > deadline:
            return not left
        time.sleep(0.05)


def _remove_tree(path: Path) -> bool:
    for directory, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()
    return not path.exists()


def leader(relative: str) -> int | None:
    """The number, on the machine, of a host's own PID 1, or None if it has none now."""
    for pid in processes(relative):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for row in status.splitlines():
            if row.startswith("NSpid:"):
                numbers = row.split()[1:]
                if len(numbers) == 2 and numbers[1] == "1":  # deeper ones are containers inside the host
                    return pid
    return None
