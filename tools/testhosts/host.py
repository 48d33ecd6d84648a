"""One host: boot it on its overlay, wait for it, stop it, clear what it left."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import cgroup, keeper, network, settings
from .errors import BootError, SpecError, TestHostsError
from .mounts import mount_overlay, remove_tree, unmount
from .process import ProcessRecord
from .shell import environment, find_program, run
from .state import StateDir, write_atomically, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .spec import Host, Names, NetworkSpec

_CONSOLE_TAIL_LINES = 25
# systemd's "power off" for a container manager. systemd(1), SIGRTMIN+4.
_POWER_OFF = signal.SIGRTMIN + 4


@dataclass(frozen=True)
class HostUnit:
    """One host of a network, and everything that it has on the machine."""

    state: StateDir
    spec: NetworkSpec
    names: Names
    host: Host

    @property
    def directory(self) -> Path:
        """Its overlay, its records and its console."""
        return self.state.network(self.spec.name) / "hosts" / self.host.name

    @property
    def root(self) -> Path:
        """Where its tree is mounted while it runs."""
        return self.directory / "root"

    @property
    def cgroup(self) -> str:
        """Its control group."""
        return f"{self.names.cgroup}/{self.host.name}"

    @property
    def console(self) -> Path:
        """What it and systemd-nspawn wrote on its console."""
        return self.directory / "console.log"

    @property
    def _keeper_file(self) -> Path:
        return self.directory / "keeper.json"

    @property
    def _whole_file(self) -> Path:
        return self.directory / "whole"

    @property
    def whole(self) -> bool:
        """Whether it has ever been up: its overlay is worth keeping."""
        return self._whole_file.exists()

    @property
    def leader(self) -> int | None:
        """The machine's number of its PID 1."""
        return cgroup.leader(self.cgroup)

    def condition(self) -> str:
        """`running`, `booting` (no PID 1 yet, or between two boots) or `off`."""
        running = ProcessRecord.load(self._keeper_file)
        if running is None or not running.alive():
            return "off"
        return "booting" if self.leader is None else "running"

    def boot(self, lowers: Sequence[Path]) -> None:
        """Start it on its overlay, a fresh one if it has none; does not wait for it.

        Raises:
            TestHostsError: the kernel or the file system refused something; the text says what.
        """
        fresh = not self.whole
        self.directory.mkdir(parents=True, exist_ok=True)
        mount_overlay(self.root, lowers, self.directory / "upper", self.directory / "work")
        if fresh:
            self._prepare()
        keeper_spec = self.directory / "keeper-spec.json"
        hierarchies = (cgroup.cgroup2_mount(), Path("/sys/fs/cgroup/systemd"))
        write_json(
            keeper_spec,
            {
                "name": self.host.name,
                "netns": self.names.netns(self.host.name),
                "network_commands": network.ensure_host_network(self.spec, self.names, self.host),
                "keeper_cgroup": str(cgroup.make(f"{self.names.cgroup}/keeper.{self.host.name}")),
                "cgroups": [str(hierarchy / self.cgroup) for hierarchy in hierarchies],
                "argv": self._nspawn(),
                "environment": {**_nspawn_environment(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            },
        )
        with self.console.open("ab") as console:
            process = subprocess.Popen(
                [sys.executable, "-I", str(Path(keeper.__file__).resolve()), str(keeper_spec)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(),
                cwd="/",
            )
        process.returncode = 0  # it outlives us on purpose: no warning when this object goes
        record = ProcessRecord.of(process.pid)
        if record is None:
            raise BootError(self._with_console("its keeper ended at once"))
        record.save(self._keeper_file)

    def _nspawn(self) -> list[str]:
        netns = f"/run/netns/{self.names.netns(self.host.name)}"
        return [
            # The one who mounts /sys is in the host's network, so /sys/class/net shows the host's interfaces.
            find_program("nsenter") or "nsenter", f"--net={netns}",
            find_program("systemd-nspawn") or "systemd-nspawn",
            "--quiet", "--register=no", "--keep-unit", "--boot", "--console=pipe", "--link-journal=no",
            "--resolv-conf=off", "--timezone=off",
            f"--network-namespace-path={netns}",
            "--capability=CAP_NET_ADMIN", f"--machine={self.names.machine(self.host.name)}",
            f"--hostname={self.host.name}",
            f"--directory={self.root}", *(f"--bind-ro={bind.source}:{bind.target}" for bind in self.spec.binds),
        ]  # fmt: skip

    def _prepare(self) -> None:
        name = self.host.name
        etc = self.root / "etc"
        write_atomically(etc / "hostname", f"{name}\n")
        write_atomically(
            etc / "hosts",
            f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{self.host.address} {name}\n",
        )
        write_atomically(etc / "resolv.conf", settings.machine_resolv_conf())
        ssh = self.root / "root" / ".ssh"
        ssh.mkdir(mode=0o700, exist_ok=True)
        write_atomically(ssh / "authorized_keys", self.state.ssh_key.with_suffix(".pub").read_text(), mode=0o600)

    def wait_ready(self, timeout_seconds: float) -> str:
        """Wait until systemd in it says `running` or `degraded`, over ssh; returns which.

        Raises:
            BootError: it ended, or it took longer.
        """
        deadline = time.monotonic() + timeout_seconds
        answer = ""
        while time.monotonic() < deadline:
            if self.condition() == "off":
                raise BootError(self._with_console("it ended while it was booting"))
            done = run(self.ssh(["systemctl", "is-system-running"], connect_seconds=2), check=False, timeout_seconds=30)
            answer = done.stdout.strip() or done.stderr.strip()
            if answer in ("running", "degraded"):
                self._whole_file.touch()
                return answer
            time.sleep(0.2)
        raise BootError(
            self._with_console(f"it was not up after {timeout_seconds:g} s (last answer: {answer or 'none'})")
        )

    def _with_console(self, problem: str) -> str:
        try:
            tail = self.console.read_text(errors="replace").splitlines()[-_CONSOLE_TAIL_LINES:]
        except FileNotFoundError:
            tail = []
        return (
            f"host {self.host.name} of network {self.spec.name}: {problem}; the end of {self.console}:\n  "
            + "\n  ".join(tail)
        )

    def ssh(self, argv: Sequence[str] = (), *, connect_seconds: int = 10, options: Sequence[str] = ()) -> list[str]:
        """The ssh command line that runs a command in it as root."""
        return [
            "ssh", "-F", "/dev/null", "-i", str(self.state.ssh_key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
            "-o", f"ConnectTimeout={connect_seconds}", *options, f"root@{self.host.address}",
            *([shlex.join(argv)] if argv else []),
        ]  # fmt: skip

    def stop(self, timeout_seconds: float = 10, hard: bool = False) -> None:
        """Power it off, by SIGKILL after the time is over or with `hard`; unmount its tree. Its overlay stays.

        Raises:
            TestHostsError: some of it could not be removed.
        """
        running = ProcessRecord.load(self._keeper_file)
        if running is not None and running.alive() and not hard:
            leader = self.leader
            record = ProcessRecord.of(leader) if leader is not None else None
            if record is not None and record.pid in cgroup.processes(self.cgroup) and record.signal(_POWER_OFF):
                running.wait_gone(timeout_seconds)
        if running is not None and running.signal(signal.SIGKILL):
            running.wait_gone(5)
        for group in (f"{self.names.cgroup}/keeper.{self.host.name}", self.cgroup):
            if not cgroup.kill(group) or not cgroup.remove(group):
                raise TestHostsError(
                    f"host {self.host.name}: control group {cgroup.cgroup2_mount() / group} still holds processes "
                    f"{cgroup.processes(group)}, which SIGKILL does not end; see `cat /proc/PID/stack`"
                )
        self._keeper_file.unlink(missing_ok=True)
        unmount(self.root)
        shutil.rmtree(Path("/run/systemd/nspawn/propagate") / self.names.machine(self.host.name), ignore_errors=True)

    def clear(self, timeout_seconds: float = 10, hard: bool = False) -> None:
        """Remove all that it has on the machine, its overlay too."""
        self.stop(timeout_seconds, hard)
        network.remove_host_network(self.spec, self.names, self.host)
        remove_tree(self.directory)

    def require_running(self) -> None:
        """Check that it runs.

        Raises:
            SpecError: it doesn't.
        """
        if self.condition() == "off":
            raise SpecError(
                f"host {self.host.name} of network {self.spec.name} is off; start it with "
                f"`testhosts start --name {self.spec.name} --host {self.host.name}`"
            )


def _nspawn_environment() -> dict[str, str]:
    # nspawn hands nothing of it to the host; proxies and the like of the caller are none of its business.
    return {key: value for key, value in environment().items() if key in ("PATH", "LC_ALL", "TERM")}
