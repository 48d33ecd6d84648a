"""What the processes of an arm take: CPU seconds from control groups and /proc, memory from /proc."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TICKS = os.sysconf("SC_CLK_TCK")
_KIB_PER_MIB = 1024


@dataclass(frozen=True)
class Cpu:
    """CPU seconds, user and system, since some moment; two of them make a difference.

    Attributes:
        gateway_s: the gateway's processes.
        engine_s: the engine's processes, with the API server that it brings along.
        load_s: the load host.
        busy_s: the whole machine.
        total_s: what the machine had to give, cores times seconds.
    """

    gateway_s: float
    engine_s: float
    load_s: float
    busy_s: float
    total_s: float

    def since(self, earlier: Cpu) -> Cpu:
        """The difference to an earlier one."""
        names = ("gateway_s", "engine_s", "load_s", "busy_s", "total_s")
        return Cpu(*(getattr(self, name) - getattr(earlier, name) for name in names))


@dataclass(frozen=True)
class Meter:
    """Measures one arm.

    Attributes:
        gateway: control groups of the gateway's services.
        engine: control groups of the engine's services, where it has its own.
        engine_title: else, what the titles of the engine's processes match, among the gateway's; their children too.
        load: the control group of the load host.
    """

    gateway: Sequence[Path]
    engine: Sequence[Path]
    engine_title: str | None
    load: Path

    def cpu(self) -> Cpu:
        """CPU seconds until now."""
        inside = sum(_process_cpu_s(pid) for pid in self._engine_processes())
        busy, total = _machine_s()
        return Cpu(
            gateway_s=sum(map(_group_cpu_s, self.gateway)) - inside,
            engine_s=sum(map(_group_cpu_s, self.engine)) + inside,
            load_s=_group_cpu_s(self.load),
            busy_s=busy,
            total_s=total,
        )

    def memory(self) -> tuple[float, float]:
        """Resident memory of the gateway's processes: RSS and PSS, in MiB; RSS counts what they share several times."""
        pids = processes(self.gateway) - self._engine_processes()
        rss, pss = 0, 0
        for pid in pids:
            with contextlib.suppress(OSError):  # it ended meanwhile
                found = dict(re.findall(r"^(Rss|Pss): +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M))
                rss, pss = rss + int(found["Rss"]), pss + int(found["Pss"])
        return rss / _KIB_PER_MIB, pss / _KIB_PER_MIB

    def _engine_processes(self) -> set[int]:
        if self.engine_title is None:
            return set()
        parents = {pid: _parent(pid) for pid in processes(self.gateway)}
        found = {pid for pid in parents if re.search(self.engine_title, _title(pid))}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found


def processes(groups: Iterable[Path]) -> set[int]:
    """The processes of control groups and of everything below them."""
    found: set[int] = set()
    for group in groups:
        for directory, _, _ in os.walk(group):
            with contextlib.suppress(OSError):  # it went away meanwhile
                found |= {int(row) for row in (Path(directory) / "cgroup.procs").read_text().split()}
    return found - {0}


def _group_cpu_s(group: Path) -> float:
    # Also of processes that have ended; there whether or not the controller `cpu` is.
    return int((group / "cpu.stat").read_text().split()[1]) / 1e6


def _process_cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        # After the name, which may hold anything: utime and stime are fields 14 and 15, proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _machine_s() -> tuple[float, float]:
    # user nice system idle iowait irq softirq steal, proc(5)
    values = [int(value) / _TICKS for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(values) - values[3] - values[4], sum(values)
