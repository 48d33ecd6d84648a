"""Publish ports of hosts on the machine's loopback, by systemd's own socket proxy (it splices: nothing is buffered)."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import cgroup
from .errors import MachineError, TestHostsError
from .process import ProcessRecord
from .shell import environment, find_program

if TYPE_CHECKING:
    from .spec import Names, NetworkSpec, Publish

_PROXY_PATHS = ("/usr/lib/systemd/systemd-socket-proxyd", "/lib/systemd/systemd-socket-proxyd")
_CONNECTIONS_MAX = 4096
_START_SECONDS = 5.0


class Publisher:
    """The published ports of one network."""

    def __init__(self, spec: NetworkSpec, names: Names, directory: Path) -> None:
        """Keep records below `directory`."""
        self._spec = spec
        self._names = names
        self._directory = directory / "publish"

    def require_free(self, wanted: tuple[Publish, ...]) -> None:
        """Check that the ports that are not ours yet can be had.

        Raises:
            MachineError: one is in use.
        """
        living = [
            path for path in self._records() if (record := ProcessRecord.load(path)) is not None and record.alive()
        ]
        ours = {int(path.name.partition("-")[0]) for path in living}
        for publish in wanted:
            if publish.port not in ours:
                _loopbacks(publish)

    def ensure(self, wanted: tuple[Publish, ...]) -> bool:
        """Publish exactly these ports; True if anything had to change.

        Raises:
            MachineError: a port is in use, or systemd's socket proxy is missing.
        """
        keep = {self._file(publish).name for publish in wanted}
        changed = False
        for path in self._records():
            if path.name not in keep:
                self._end(path)
                changed = True
        for publish in wanted:
            record = ProcessRecord.load(self._file(publish))
            if record is None or not record.alive():
                self._start(publish)
                changed = True
        return changed

    def stop(self) -> None:
        """End every forward of this network."""
        for path in self._records():
            self._end(path)
        group = f"{self._names.cgroup}/publish"
        cgroup.kill(group)
        cgroup.remove(group)

    def _file(self, publish: Publish) -> Path:
        address = self._spec.host(publish.host).address
        return self._directory / f"{publish.port}-{address}-{publish.host_port}.json"

    def _records(self) -> list[Path]:
        return sorted(self._directory.glob("*.json")) if self._directory.is_dir() else []

    def _start(self, publish: Publish) -> None:
        program = next((path for path in _PROXY_PATHS if os.access(path, os.X_OK)), None)
        if program is None:
            raise MachineError(
                f"--publish needs systemd-socket-proxyd (package systemd), which is not in {' or '.join(_PROXY_PATHS)}"
            )
        listen = _loopbacks(publish)
        self._directory.mkdir(parents=True, exist_ok=True)
        group = cgroup.make(f"{self._names.cgroup}/publish")
        # The shell enters the control group, then becomes the proxy: one process, never outside.
        argv = ["/bin/sh", "-c", 'echo 0 >"$1" && shift && exec "$@"', "sh", str(group / "cgroup.procs")]
        argv += [find_program("systemd-socket-activate") or "systemd-socket-activate"]
        for address in listen:
            argv += ["--listen", f"{address}:{publish.port}"]
        address = self._spec.host(publish.host).address
        argv += [program, f"--connections-max={_CONNECTIONS_MAX}", f"{address}:{publish.host_port}"]
        log = self._file(publish).with_suffix(".log")
        with log.open("ab") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(),
                cwd="/",
            )
        process.returncode = 0  # it outlives us on purpose
        record = ProcessRecord.of(process.pid)
        deadline = time.monotonic() + _START_SECONDS
        while record is not None and record.alive() and not _listening(publish.port):
            if time.monotonic() > deadline:
                record.signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        if record is None or not record.alive():
            raise TestHostsError(
                f"publishing 127.0.0.1:{publish.port} failed: {log.read_text(errors='replace')[-1000:]}"
            )
        record.save(self._file(publish))

    def _end(self, path: Path) -> None:
        record = ProcessRecord.load(path)
        if record is not None and record.signal(signal.SIGTERM) and not record.wait_gone(3):
            record.signal(signal.SIGKILL)
            record.wait_gone(3)
        path.unlink(missing_ok=True)
        path.with_suffix(".log").unlink(missing_ok=True)


def _loopbacks(publish: Publish) -> list[str]:
    """The loopback addresses that the machine has, all with this port free."""
    candidates = ((socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::1", "[::1]"))
    return [shown for family, address, shown in candidates if _require_free(family, address, publish)]


def _require_free(family: socket.AddressFamily, address: str, publish: Publish) -> bool:
    """True if the port can be had on this address, False if the machine has no such address."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, publish.port))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return False
            raise MachineError(
                f"port {publish.port} on {address} can't be published: {error.strerror}; choose another port"
            ) from error
    return True


def _listening(port: int) -> bool:
    # Read, not tried: a connection would wake the proxy, and count as one at the host.
    wanted = f"0100007F:{port:04X}"
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(row[1] == wanted and row[3] == "0A" for row in rows)
