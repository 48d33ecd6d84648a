#!/usr/bin/python3
"""Watches a node's GPUs, takes the node out of service when one breaks, and lets it in again at an operator's word.

``llm-gpu-health watch`` is a systemd service, ``admit`` and ``prepare`` run before each start of the Ray node, and
``status``, ``drain`` and ``undrain`` are the operator's. The role ``gpu_health`` installs it and writes its settings.

Only the standard library: it runs with the host's own Python, whatever the state of the runtime.

Sources: NVIDIA's "XID Errors" for the codes and what they ask for; "NVIDIA GPU Memory Error Management" for row
remapping; ``nvidia-smi --help-query-gpu`` and ``--help-query-compute-apps`` for the fields; ray 2.60.0,
``ray/scripts/scripts.py`` for ``ray drain-node``.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SETTINGS_FILE = "/etc/llm/gpu-health.json"

# What a code says about the GPU, for those that say something. The rest are errors of programs: they end a process, and
# the next one is well.
_XIDS = {
    48: "memory error of two bits",
    62: "its microcontroller halted",
    64: "a broken row of memory could not be remapped",
    74: "NVLink error",
    79: "fallen off the bus",
    92: "too many memory errors of one bit",
    95: "memory error that reached other programs",
    109: "context switch timed out",
    119: "its system processor doesn't answer",
    120: "error in its system processor",
    136: "link training failed",
    140: "memory error that was not corrected",
    143: "it could not be initialised",
    149: "NVLink error",
    155: "NVLink error",
    156: "its resources were retired",
    158: "its clocks failed",
}
# Of these, what programs can go on after.
_WARNINGS = frozenset({48, 74, 92, 109})
_XID_LINE = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9A-Fa-f:.]+)\): (\d+)(?:, (.*))?")
_GPU_FIELDS = (
    "pci.bus_id",
    "name",
    "ecc.errors.uncorrected.volatile.total",
    "remapped_rows.pending",
    "remapped_rows.failure",
)
_SMI_SECONDS = 60
_RAY_SECONDS = 60
_KILL_SECONDS = 10


class HealthError(Exception):
    """Something can't be done; the message says what, why, and what to do."""


@dataclass(frozen=True)
class Settings:
    """What the role writes into the settings file.

    Attributes:
        unit: systemd unit of the Ray node.
        state_file: says, while it exists, that the node is drained, since when and why.
        gpus: how many GPUs the node has.
        ray: the program.
        ray_environment_file: the Ray node's environment, ``NAME=value`` in each line.
        ray_token_file: of the cluster.
        drain_seconds: how long replicas may take to move, and requests to end, before the unit is stopped.
        poll_seconds: between two looks at the GPUs.
        reaped_users: names of users whose processes are ended where they hold a GPU and no unit owns them.
        nvidia_smi: the program.
        kernel_log: command that prints the kernel's messages as they come, one in a line.
        proc: where procfs is.
    """

    unit: str
    state_file: Path
    gpus: int
    ray: str
    ray_environment_file: Path
    ray_token_file: Path
    drain_seconds: int = 600
    poll_seconds: int = 30
    reaped_users: Sequence[str] = ()
    nvidia_smi: str = "nvidia-smi"
    kernel_log: Sequence[str] = ("journalctl", "--dmesg", "--follow", "--lines=0", "--output=cat")
    proc: Path = Path("/proc")

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read a settings file.

        Raises:
            HealthError: it can't be read, or something in it is missing or not known.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            paths = [one.name for one in fields(cls) if str(one.type) == "Path" and one.name in values]
            return cls(**{**values, **{name: Path(values[name]) for name in paths}})
        except (OSError, ValueError, TypeError) as error:
            raise HealthError(f"{path}: {error}. Run site.yml --tags gpu, which writes it.") from error


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a GPU.

    Attributes:
        fatal: whether the node can't go on with it.
        text: what it is, and which GPU.
    """

    fatal: bool
    text: str


def find_xid(line: str) -> Finding | None:
    """What a line of the kernel's log says about a GPU; None where that is nothing, or an error of a program."""
    match = _XID_LINE.search(line)
    if not match or int(match[2]) not in _XIDS:
        return None
    code = int(match[2])
    said = f" ({match[3].strip()})" if match[3] else ""
    return Finding(code not in _WARNINGS, f"GPU {match[1].lower()}: XID {code}, {_XIDS[code]}{said}")


@dataclass(frozen=True)
class Gpu:
    """What ``nvidia-smi`` says of a GPU; None is what it doesn't know.

    Attributes:
        address: on the PCI bus.
        name: of the product.
        uncorrected: uncorrected memory errors since the driver was loaded.
        remap_pending: rows of memory wait for a reset to be remapped.
        remap_failed: a row of memory could not be remapped: the board has to be replaced.
    """

    address: str
    name: str
    uncorrected: int | None
    remap_pending: bool
    remap_failed: bool


def read_gpus(settings: Settings) -> list[Gpu]:
    """Ask ``nvidia-smi`` for the GPUs.

    Raises:
        HealthError: it fails, or doesn't answer within a minute.
    """
    found = []
    for line in _smi(settings, f"--query-gpu={','.join(_GPU_FIELDS)}"):
        address, name, uncorrected, pending, failed = (value.strip() for value in line.split(","))
        errors = int(uncorrected) if uncorrected.isdigit() else None
        found.append(Gpu(address.lower(), name, errors, _yes(pending), _yes(failed)))
    return found


def _yes(value: str) -> bool:
    return value.lower() in ("yes", "1")


def _smi(settings: Settings, *query: str) -> list[str]:
    argv = [settings.nvidia_smi, *query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_SMI_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise HealthError(f"{settings.nvidia_smi} has not answered for {_SMI_SECONDS} s") from error
    except OSError as error:
        raise HealthError(f"{settings.nvidia_smi}: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip() or "no message"
        raise HealthError(f"{settings.nvidia_smi} ended with {done.returncode}: {said}")
    return [line for line in done.stdout.splitlines() if line.strip()]


def check_gpus(gpus: Sequence[Gpu], expected: int, before: Mapping[str, int]) -> list[Finding]:
    """What is wrong with the GPUs.

    Args:
        gpus: as they are now.
        expected: how many there must be.
        before: address to the uncorrected errors at the last look; they count from the loading of the driver.
    """
    found = []
    if len(gpus) < expected:
        answering = ", ".join(gpu.address for gpu in gpus) or "none"
        found.append(Finding(True, f"{len(gpus)} of {expected} GPUs answer: {answering}"))
    for gpu in gpus:
        if gpu.remap_failed:
            found.append(Finding(True, f"GPU {gpu.address}: rows of its memory can't be remapped; replace the board"))
        if gpu.remap_pending:
            found.append(Finding(False, f"GPU {gpu.address}: rows of its memory wait for a reset to be remapped"))
        if gpu.uncorrected is not None and gpu.uncorrected > before.get(gpu.address, gpu.uncorrected):
            found.append(Finding(False, f"GPU {gpu.address}: {gpu.uncorrected} memory errors that were not corrected"))
    return found


# -- drained ---------------------------------------------------------------------------------------------------------


@dataclass
class Drain:
    """Why a node is drained.

    Attributes:
        since: when it began, in UTC, ISO 8601.
        reasons: what was found, the first one first.
        deadline: seconds of the epoch; the unit is stopped then at the latest.
    """

    since: str
    reasons: list[str] = field(default_factory=list)
    deadline: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Drain | None:
        """The drain that a state file tells of; None where there is none.

        Raises:
            HealthError: the file can't be read: then nobody knows whether the node may serve.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise HealthError(f"{path} can't be read: {error}. Look why, and then: llm-gpu-health undrain") from error

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(vars(self)), encoding="utf-8")
        temporary.replace(path)

    def __str__(self) -> str:
        return f"drained since {self.since}: {'; '.join(self.reasons)}"


def drain(settings: Settings, reason: str) -> None:
    """Take the node out of service: Serve moves its replicas while they go on, and later the unit is stopped.

    A node that is drained already gets one more reason.
    """
    now = Drain.read(settings.state_file)
    if now is not None:
        if reason not in now.reasons:
            now.reasons.append(reason)
            now.write(settings.state_file)
        return
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    # First of all: a node that is started meanwhile must not serve.
    Drain(since, [reason], time.time() + settings.drain_seconds).write(settings.state_file)
    say("err", f"draining this node: {reason}. When it is well again: llm-gpu-health undrain")
    try:
        _ask_ray_to_drain(settings, reason)
    except HealthError as error:
        say("warning", f"Ray doesn't move the replicas first: {error}")
        _stop(settings)


def _ask_ray_to_drain(settings: Settings, reason: str) -> None:
    raylet = _find_raylet(settings)
    argv = [
        settings.ray, "drain-node",
        f"--address={raylet['gcs-address']}", f"--node-id={raylet['node_id']}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION", f"--reason-message={reason}",
        f"--deadline-remaining-seconds={settings.drain_seconds}",
    ]  # fmt: skip
    lines = settings.ray_environment_file.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    own = {name: value for name, value in pairs if name.startswith("RAY_AUTH")}
    environment = {**os.environ, **own, "RAY_AUTH_TOKEN_PATH": str(settings.ray_token_file)}
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_RAY_SECONDS, env=environment)
    except (subprocess.TimeoutExpired, OSError) as error:
        raise HealthError(str(error)) from error
    if done.returncode != 0:
        raise HealthError((done.stderr.strip() or done.stdout.strip()).splitlines()[-1] or "no message")


def _systemctl(*arguments: str) -> int:
    return subprocess.run(["systemctl", "--quiet", *arguments], check=False).returncode


def _find_raylet(settings: Settings) -> dict[str, str]:
    """The options of the process that makes this host a node.

    Raises:
        HealthError: there is none.
    """
    for command in settings.proc.glob("[0-9]*/cmdline"):
        try:
            program, *arguments = command.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if program.endswith("/raylet"):
            options = (one.removeprefix("--").partition("=") for one in arguments if one.startswith("--"))
            return {name: value for name, _, value in options}
    raise HealthError("Ray doesn't run on this host")


def _has_replicas(settings: Settings) -> bool:
    for command in settings.proc.glob("[0-9]*/cmdline"):
        try:
            if command.read_bytes().startswith(b"ray::ServeReplica:model-"):
                return True
        except OSError:
            continue
    return False


def _stop(settings: Settings) -> None:
    say("notice", f"stopping {settings.unit}")
    # Not waited for: it may take as long as the longest request.
    _systemctl("stop", "--no-block", settings.unit)


def undrain(settings: Settings) -> str:
    """Let the node serve again; returns what to tell the operator.

    Raises:
        HealthError: a GPU is still broken.
    """
    if not settings.state_file.exists():
        return "This node is not drained."
    broken = [finding.text for finding in check_gpus(read_gpus(settings), settings.gpus, {}) if finding.fatal]
    if broken:
        raise HealthError(f"still broken: {'; '.join(broken)}. Reset or replace the GPU, or reboot the host, first")
    settings.state_file.unlink()
    if _systemctl("is-enabled", settings.unit) != 0:
        return f"This node is not drained any more. {settings.unit} is not set up to start."
    # A raylet that was drained takes no replicas until it is started anew.
    if _systemctl("restart", "--no-block", settings.unit) != 0:
        raise HealthError(f"systemctl could not start {settings.unit}")
    return f"{settings.unit} starts, and Serve puts replicas on this node as soon as it is there."


# -- before the Ray node starts --------------------------------------------------------------------------------------


def admit(settings: Settings) -> None:
    """Whether the node may serve.

    Raises:
        HealthError: it is drained.
    """
    now = Drain.read(settings.state_file)
    if now is not None:
        raise HealthError(f"this node is {now}. When it is well again: llm-gpu-health undrain")


def prepare(settings: Settings) -> None:
    """Look whether the GPUs answer, and end what holds them without a unit.

    Raises:
        HealthError: they don't answer, such as when the libraries are not of the loaded driver's version.
    """
    gpus = read_gpus(settings)
    if len(gpus) < settings.gpus:
        raise HealthError(f"{len(gpus)} of {settings.gpus} GPUs answer; see journalctl --dmesg --grep NVRM")
    reap(settings)


def reap(settings: Settings) -> list[int]:
    """End the processes that hold a GPU, belong to one of the users, and to no other unit that runs.

    What is left of the node's own unit belongs to nobody any more: this runs before the unit's first process.

    Returns:
        Their numbers. Those of other users are only told of.
    """
    ended = []
    for number in sorted({int(line) for line in _smi(settings, "--query-compute-apps=pid") if line.strip().isdigit()}):
        process = settings.proc / str(number)
        try:
            group = (process / "cgroup").read_text(encoding="utf-8").strip().rpartition(":")[2]
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            user = process.owner()
        except (OSError, KeyError):
            continue
        units = [part for part in group.split("/") if part.endswith(".service") and not part.startswith("user@")]
        if units and units[-1] != settings.unit:
            continue
        what = f"process {number} of {user} ({command[:80]}) holds a GPU, and no unit owns it"
        if user not in settings.reaped_users:
            say("warning", f"{what}: the engine may lack its memory. End it: kill {number}")
            continue
        say("notice", f"{what}: ending it")
        _end(number)
        ended.append(number)
    return ended


def _end(number: int) -> None:
    try:
        os.kill(number, signal.SIGTERM)
        for _ in range(_KILL_SECONDS * 10):
            time.sleep(0.1)
            os.kill(number, 0)
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        pass


# -- the service -----------------------------------------------------------------------------------------------------


class Watch:
    """Reads the kernel's log and asks for the GPUs, and drains the node when one breaks.

    Args:
        settings: the role's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lines: queue.Queue[str] = queue.Queue()
        self._before: dict[str, int] = {}
        self._told: set[str] = set()

    def run(self) -> None:
        """Watch for ever."""
        threading.Thread(target=self._read_log, daemon=True).start()
        say("notice", f"watching {self._settings.gpus} GPUs")
        following = 0.0
        while True:
            if time.monotonic() >= following:
                self.look()
                following = time.monotonic() + self._settings.poll_seconds
            try:
                finding = find_xid(self._lines.get(timeout=1))
            except queue.Empty:
                continue
            if finding:
                self._act([finding])

    def look(self) -> None:
        """Ask for the GPUs once, and stop the unit of a drained node whose time is over."""
        now = Drain.read(self._settings.state_file)
        is_over = now is not None and (time.time() >= now.deadline or not _has_replicas(self._settings))
        if is_over and _systemctl("is-active", self._settings.unit) == 0:
            _stop(self._settings)
        try:
            gpus = read_gpus(self._settings)
        except HealthError as error:
            # One that hangs or finds no driver; what broke is in the kernel's log, or the operator is at work.
            self._act([Finding(False, str(error))])
            return
        self._act(check_gpus(gpus, self._settings.gpus, self._before))
        self._before = {gpu.address: gpu.uncorrected for gpu in gpus if gpu.uncorrected is not None}

    def _act(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if finding.fatal:
                drain(self._settings, finding.text)
            elif finding.text not in self._told:
                say("warning", finding.text)
                self._told.add(finding.text)

    def _read_log(self) -> None:
        while True:
            with subprocess.Popen(
                self._settings.kernel_log, stdout=subprocess.PIPE, text=True, errors="replace"
            ) as log:
                assert log.stdout is not None
                for line in log.stdout:
                    self._lines.put(line)
            say("warning", f"{self._settings.kernel_log[0]} has ended with {log.returncode}; again in 5 s")
            time.sleep(5)


def say(level: str, text: str) -> None:
    """Write a line for the journal, with its level."""
    levels = {"err": 3, "warning": 4, "notice": 5}
    print(f"<{levels[level]}>{text}" if "JOURNAL_STREAM" in os.environ else text, file=sys.stderr, flush=True)


def status(settings: Settings) -> str:
    """What an operator sees of the node."""
    now = Drain.read(settings.state_file)
    lines = [f"This node is {now}." if now else "This node may serve."]
    try:
        gpus = read_gpus(settings)
    except HealthError as error:
        return "\n".join([*lines, str(error)])
    lines += [f"{gpu.address}  {gpu.name}  uncorrected memory errors: {gpu.uncorrected or 0}" for gpu in gpus]
    lines += [finding.text for finding in check_gpus(gpus, settings.gpus, {})]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 1 where the node may not serve, or something can't be done."""
    parser = argparse.ArgumentParser(prog="llm-gpu-health", description="The health of this node's GPUs.")
    parser.add_argument("--settings", type=Path, default=Path(SETTINGS_FILE), metavar="FILE")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="say whether the node may serve, and how its GPUs are")
    commands.add_parser("drain", help="take the node out of service").add_argument("reason")
    commands.add_parser("undrain", help="let the node serve again")
    commands.add_parser("watch", help="watch the GPUs (llm-gpu-health.service)")
    commands.add_parser("admit", help="fail on a drained node (before the Ray node starts)")
    commands.add_parser("prepare", help="check the GPUs and free them (before the Ray node starts)")
    given = parser.parse_args(arguments)
    try:
        settings = Settings.read(given.settings)
        if given.command == "watch":
            Watch(settings).run()
        elif given.command == "drain":
            drain(settings, given.reason)
        elif given.command == "admit":
            admit(settings)
        elif given.command == "prepare":
            prepare(settings)
        else:
            print(undrain(settings) if given.command == "undrain" else status(settings))
    except HealthError as error:
        say("err", str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
