"""Overlays: mount, unmount, and remove trees without ever reaching into something mounted below them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MachineError, TestHostsError
from .shell import run

if TYPE_CHECKING:
    from collections.abc import Sequence


def require_overlay() -> None:
    """Check that the kernel has overlayfs.

    Raises:
        MachineError: it doesn't.
    """
    if _has_overlay():
        return
    run(["modprobe", "overlay"], check=False)
    if not _has_overlay():
        raise MachineError(
            "the kernel has no overlayfs (not in /proc/filesystems, and `modprobe overlay` does not bring it); "
            "hosts need it: use a kernel that has it"
        )


def _has_overlay() -> bool:
    return "\toverlay\n" in Path("/proc/filesystems").read_text()


def mounted_below(path: Path) -> list[Path]:
    """Mount points at or below a path, the deepest last mounted first."""
    found = []
    for row in Path("/proc/self/mounts").read_text().splitlines():
        target = Path(row.split()[1].encode().decode("unicode_escape"))
        if target == path or path in target.parents:
            found.append(target)
    return found[::-1]


def mount_overlay(root: Path, lowers: Sequence[Path], upper: Path, work: Path) -> None:
    """Mount an overlay; its first lower layer is the lowest. Does nothing if it is mounted already.

    Raises:
        MachineError: the file system of the state directory can't hold overlays.
    """
    if root in mounted_below(root):
        return
    for path in (root, upper, work):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)  # the upper directory's mode is that of `/` in the host
    stack = ":".join(str(path) for path in reversed(lowers))
    run(
        ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={stack},upperdir={upper},workdir={work}", str(root)],
        hint=f"overlays need a file system such as ext4, xfs or btrfs below them, not another overlay or a network "
        f"file system; set TESTHOSTS_DIR to such a place (now {upper.parent})",
    )


def unmount(path: Path, timeout_seconds: float = 10) -> None:
    """Unmount everything at or below a path; try again while it is busy, and in the end detach it.

    Raises:
        TestHostsError: something is still mounted.
    """
    deadline = time.monotonic() + timeout_seconds
    while points := mounted_below(path):
        late = time.monotonic() > deadline
        for point in points:
            done = run(["umount", *(["--lazy"] if late else []), str(point)], check=False)
            if late and done.returncode != 0:
                raise TestHostsError(
                    f"cannot unmount {point}: {done.stderr.strip()}; see `fuser -vm {point}` for who holds it"
                )
        if mounted_below(path):
            time.sleep(0.1)


def remove_tree(path: Path) -> None:
    """Unmount what is below a path, then remove it; other file systems are never entered.

    Raises:
        TestHostsError: something is still mounted there.
        CommandError: it can't be removed.
    """
    unmount(path)
    run(["rm", "-rf", "--one-file-system", str(path)], timeout_seconds=600)


def require_netns() -> None:
    """Check that the kernel has network namespaces.

    Raises:
        MachineError: it doesn't.
    """
    if not Path("/proc/self/ns/net").exists():
        raise MachineError(
            "the kernel has no network namespaces (/proc/self/ns/net is missing); "
            "hosts need them: use a kernel that has them"
        )
