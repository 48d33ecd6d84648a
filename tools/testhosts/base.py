"""Base trees: a small Debian that boots systemd and answers ssh, made once a suite."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import cgroup, settings
from .errors import BuildError, MachineError
from .mounts import remove_tree
from .shell import environment, require_programs, run
from .spec import Names
from .state import Echo, StateDir, give_to_caller, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "libpam-systemd", "python3", "python3-apt", "python3-venv", "openssh-server",
    "sudo", "iproute2", "iputils-ping", "ca-certificates", "nftables", "procps", "curl",
)  # fmt: skip
# No devices, no consoles; and no timer that takes apt's lock while a play runs.
_MASKED_UNITS = (
    "systemd-udevd.service", "systemd-resolved.service", "getty.target", "console-getty.service",
    "apt-daily.timer", "apt-daily-upgrade.timer",
)  # fmt: skip
_RECIPE_VERSION = 2


def base_id(suite: str) -> str:
    """The name of a suite's base tree; it changes with the recipe, so that an old tree is not taken for a new one."""
    recipe = json.dumps([_RECIPE_VERSION, _PACKAGES, _MASKED_UNITS])
    return f"{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"


def build_cgroup(state: StateDir, suite: str) -> str:
    """The control group that the build of a suite's base tree runs in."""
    return Names(f"base.{suite}", str(state.root)).cgroup


def ensure_base(state: StateDir, suite: str, echo: Echo) -> Path:
    """The base tree of a suite; it is built if there is none yet.

    It is built under a temporary name and renamed when it is whole: a build that was cut off leaves nothing that
    looks whole.

    Raises:
        BuildError: mmdebstrap or a step after it failed.
        MachineError: a program, or Debian's archive keyring, is missing.
    """
    name = base_id(suite)
    target = state.bases / name
    if target.is_dir():
        return target
    with state.lock(f"base.{suite}", echo):
        if target.is_dir():
            return target
        require_programs(["mmdebstrap"])
        if not Path(settings.DEBIAN_KEYRING).exists():
            raise MachineError(
                f"{settings.DEBIAN_KEYRING} is missing, so Debian's archive can't be verified; install it with "
                "`python -m testhosts deps` (package debian-archive-keyring)"
            )
        # The processes of a build that was cut off may still write; nothing but this build is in this group.
        group = build_cgroup(state, suite)
        cgroup.kill(group)
        for leftover in state.bases.glob(f".tmp-{suite}-*"):
            echo(f"base {suite}: removing {leftover.name} of a build that was cut off")
            remove_tree(leftover)
        started = time.monotonic()
        temporary = state.bases / f".tmp-{suite}-{os.getpid()}"
        work = state.bases / f".tmp-{suite}-{os.getpid()}.settings"
        work.mkdir()
        try:
            _bootstrap(suite, temporary, work, cgroup.make(group), echo)
            _stage(echo, suite, "certificates, apt, pip", lambda: _copy_settings(temporary))
            _stage(echo, suite, "ssh, units, machine id", lambda: _prepare(temporary))
        except BaseException:
            cgroup.kill(group)
            remove_tree(temporary)
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
            cgroup.remove(group)
        temporary.rename(target)
        echo(f"base {suite}: ready in {time.monotonic() - started:.0f} s")
    return target


def _stage(echo: Echo, suite: str, label: str, step: Callable[[], None]) -> None:
    begun = time.monotonic()
    step()
    echo(f"base {suite}: {label} ({time.monotonic() - begun:.1f} s)")


def _bootstrap(suite: str, target: Path, work: Path, group: Path, echo: Echo) -> None:
    sources, apt_conf = work / "debian.sources", work / "apt.conf"
    archives = settings.machine_sources(suite)
    sources.write_text("\n".join(source.render() for source in archives))
    apt_conf.write_text("\n".join(settings.apt_settings()) + "\n")
    # Without sources mmdebstrap takes the public archive, of which it knows the address.
    own = [str(sources)] if archives else []
    echo(f"base {suite}: building from {'the archives of this machine' if own else 'the public Debian archive'}")
    argv = [
        # A control group and a mount namespace of its own: what a killed build leaves can be found, and holds no mount
        # of the machine.
        "/bin/sh", "-c", 'echo 0 >"$1" && shift && exec "$@"', "sh", str(group / "cgroup.procs"),
        "unshare", "--mount", "mmdebstrap", "--mode=root", "--format=directory", "--variant=apt",
        f"--include={','.join(_PACKAGES)}", f"--aptopt={apt_conf}", suite, str(target), *own,
    ]  # fmt: skip
    log: list[str] = []
    label, begun = "", time.monotonic()
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment(),
    ) as process:
        assert process.stdout is not None
        for row in process.stdout:
            log.append(row.rstrip())
            if row.startswith("I: "):
                now = time.monotonic()
                if label:
                    echo(f"base {suite}: {label} ({now - begun:.1f} s)")
                label, begun = row[3:].strip().rstrip("."), now
    if process.returncode != 0:
        raise BuildError(
            f"mmdebstrap failed for {suite} with exit status {process.returncode}; its last lines:\n  "
            + "\n  ".join(log[-15:])
            + "\nCheck that this machine reaches its Debian archive (`apt-get update`) and that the suite is there."
        )


def _copy_settings(tree: Path) -> None:
    bundle = Path(settings.CA_BUNDLE)
    if bundle.is_file():
        theirs = (tree / settings.CA_BUNDLE[1:]).read_text(errors="replace")
        directory = tree / "usr/local/share/ca-certificates/machine"
        for number, pem in enumerate(settings.extra_certificates(bundle.read_text(errors="replace"), theirs)):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{number:03}.crt").write_text(pem + "\n")
    _chroot(tree, "update-ca-certificates")
    for path in (*settings.apt_setting_files(settings.apt_settings()), *settings.apt_auth_files()):
        copy = tree / str(path)[1:]
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    write_atomically(tree / "etc/pip.conf", settings.machine_pip_conf())


def _prepare(tree: Path) -> None:
    _chroot(tree, "ssh-keygen", "-A")
    for unit in _MASKED_UNITS:
        link = tree / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    # Both must be without an id: else all hosts share one.
    (tree / "etc/machine-id").unlink(missing_ok=True)
    (tree / "etc/machine-id").touch(mode=0o444)
    (tree / "var/lib/dbus/machine-id").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    # An installer writes it; without it every login is a warning in the journal, and hides the others.
    (tree / "etc/default/locale").touch()


def _chroot(tree: Path, *argv: str) -> None:
    try:
        run(["chroot", str(tree), "/usr/bin/env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", *argv])
    except Exception as error:
        raise BuildError(f"base tree {tree.name}: {error}") from error


def ensure_ssh_key(state: StateDir) -> Path:
    """The private key that opens every host; it is made if there is none yet.

    Under sudo it belongs to the user who called sudo, so that Ansible run by that user can use it.
    """
    key = state.ssh_key
    with state.lock("ssh", lambda _: None):
        if not key.exists():
            key.parent.mkdir(mode=0o700, exist_ok=True)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testhosts", "-f", str(key)])
            for path in (key.parent, key, key.with_suffix(".pub")):
                give_to_caller(path)
    return key
