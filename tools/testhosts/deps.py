"""Install the packages that test hosts need on the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import MachineError
from .settings import os_release
from .shell import find_program, run

if TYPE_CHECKING:
    from .state import Echo

_PACKAGES = ("mmdebstrap", "systemd-container", "nftables", "iproute2", "openssh-client")
_INSTALL_SECONDS = 1800


def install(echo: Echo) -> bool:
    """Install what is missing with apt-get; False if nothing was.

    Raises:
        MachineError: the machine is no Debian or Ubuntu.
        CommandError: apt-get failed.
    """
    release = os_release()
    if find_program("apt-get") is None:
        raise MachineError(
            f"this machine ({release.get('PRETTY_NAME', 'unknown')}) has no apt-get; "
            f"install yourself: {', '.join(_PACKAGES)}"
        )
    # Ubuntu doesn't know Debian's archive keys by itself.
    wanted = (*_PACKAGES, *(() if release.get("ID") == "debian" else ("debian-archive-keyring",)))
    missing = [package for package in wanted if not _installed(package)]
    if not missing:
        echo(f"nothing to do: {', '.join(wanted)} are installed")
        return False
    echo(f"installing {', '.join(missing)}")
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if run(command, check=False, timeout_seconds=_INSTALL_SECONDS).returncode != 0:
        echo("updating the package lists first")
        run(["apt-get", "update"], timeout_seconds=_INSTALL_SECONDS)
        run(
            command,
            timeout_seconds=_INSTALL_SECONDS,
            hint="see whether `apt-get update` and the archives of this machine work",
        )
    echo(f"installed {', '.join(missing)}")
    return True


def _installed(package: str) -> bool:
    done = run(["dpkg-query", "--show", "--showformat=${db:Status-Status}", package], check=False)
    return done.returncode == 0 and done.stdout == "installed"
