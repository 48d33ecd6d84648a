"""Processes that outlive a command: recorded so that only our own are ever signalled."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .state import read_json, write_json


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine's boot; None if it is gone or a zombie."""
    try:
        # Field 2 (the name) may hold spaces and brackets: fields are counted from its closing bracket. proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class ProcessRecord:
    """A process, told apart from a later one with the same number by its start time and the machine's boot."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessRecord | None:
        """The record of a living process, or None."""
        ticks = start_ticks(pid)
        return None if ticks is None else cls(pid, ticks, _boot_id())

    @classmethod
    def load(cls, path: Path) -> ProcessRecord | None:
        """Read a record; None if there is none."""
        data: dict[str, Any] | None = read_json(path)
        return None if data is None else cls(int(data["pid"]), int(data["start_ticks"]), str(data["boot_id"]))

    def save(self, path: Path) -> None:
        """Write the record."""
        write_json(path, asdict(self))

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.boot_id == _boot_id() and start_ticks(self.pid) == self.start_ticks

    def signal(self, number: int) -> bool:
        """Send it a signal; False if it is gone. A process that got the same number is never hit."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(descriptor, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)

    def wait_gone(self, timeout_seconds: float) -> bool:
        """Wait until it is gone; False if it still runs at the end."""
        deadline = time.monotonic() + timeout_seconds
        while self.alive():
            reap(self.pid)
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        reap(self.pid)
        return True


def reap(pid: int) -> None:
    """Collect a child of ours that ended, so that it doesn't stay a zombie; do nothing for others."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
