"""Run other programs, and turn their failures into errors that can be acted upon."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

from .errors import CommandError, MachineError

if TYPE_CHECKING:
    from collections.abc import Sequence

_OUTPUT_TAIL_CHARS = 2000

# Programs and the Debian package that holds each; `testhosts deps` installs these packages.
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "systemd-socket-activate": "systemd",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
}


def environment() -> dict[str, str]:
    """The environment that programs run in: the caller's, with sbin on the path and plain messages."""
    env = dict(os.environ)
    env["PATH"] = env.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
    env["LC_ALL"] = "C.UTF-8"
    env["DEBIAN_FRONTEND"] = "noninteractive"
    return env


def find_program(name: str) -> str | None:
    """The path of a program, also when sbin is not on the caller's path."""
    return shutil.which(name, path=environment()["PATH"])


def require_programs(names: Sequence[str] = tuple(PROGRAMS)) -> None:
    """Check that programs are there.

    Raises:
        MachineError: one is missing; the text names its package.
    """
    missing = [name for name in names if find_program(name) is None]
    if missing:
        raise MachineError(
            f"these programs are missing: {', '.join(missing)}; install them with "
            "`python -m testhosts deps` (as root), which takes them from the packages "
            f"{', '.join(sorted({PROGRAMS.get(name, name) for name in missing}))}"
        )


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    stdin: str | None = None,
    timeout_seconds: float | None = 120,
    hint: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its output.

    Args:
        argv: the program and its arguments; no shell is involved.
        check: raise when it exits with anything but 0.
        stdin: text for its standard input; none by default.
        timeout_seconds: give up after this long.
        hint: what to do when it fails, added to the error.

    Raises:
        MachineError: the program is not installed.
        CommandError: it failed (with `check`) or took too long.
    """
    shown = shlex.join(argv)
    advice = f"\n{hint}" if hint else ""
    try:
        done = subprocess.run(
            list(argv),
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            env=environment(),
        )
    except FileNotFoundError as error:
        require_programs([argv[0]])
        raise MachineError(f"cannot run `{shown}`: {error}{advice}") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"`{shown}` did not end within {timeout_seconds:g} s{advice}") from error
    if check and done.returncode != 0:
        output = (done.stderr.strip() or done.stdout.strip())[-_OUTPUT_TAIL_CHARS:]
        raise CommandError(f"`{shown}` failed with exit status {done.returncode}: {output}{advice}")
    return done
