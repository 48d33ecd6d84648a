"""The watch over the GPUs. Scripts stand for the hardware (nvidia-smi) and for services (systemctl, ray)."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

import llm_gpu_health
from llm_gpu_health import Drain, Finding, Gpu, HealthError, Settings, Watch, check_gpus, find_xid, main, read_gpus

WELL = "00000000:31:00.0, NVIDIA L4, 0, No, No"
SMI = """#!/bin/sh
case "$1" in
  --query-gpu*) cat {directory}/gpus; exit $(cat {directory}/status) ;;
  --query-compute-apps*) cat {directory}/processes ;;
esac
"""


class Node:
    """A node whose programs are scripts, and what was asked of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.proc = directory / "proc"
        raylet = self.proc / "77"
        raylet.mkdir(parents=True)
        (raylet / "cmdline").write_bytes(
            b"\0".join([b"/opt/raylet", b"--gcs-address=10.0.0.1:18379", b"--node_id=abc"])
        )
        (directory / "ray.env").write_text("# comment\nRAY_AUTH_MODE=token\nHF_HOME=/nowhere\n")
        self.script("nvidia-smi", SMI.format(directory=directory))
        self.script("systemctl", f"#!/bin/sh\necho systemctl $* >> {directory}/calls\n")
        self.script("ray", f"#!/bin/sh\necho ray $RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH $* >> {directory}/calls\n")
        self.say(WELL)
        self.settings = Settings(
            unit="ray-worker.service",
            state_file=directory / "state/drained.json",
            gpus=1,
            ray=str(directory / "bin/ray"),
            ray_environment_file=directory / "ray.env",
            ray_token_file=directory / "token",
            nvidia_smi=str(directory / "bin/nvidia-smi"),
            proc=self.proc,
        )

    def script(self, name: str, text: str) -> None:
        """Put a program."""
        program = self.directory / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)

    def say(self, *gpus: str, status: int = 0, processes: str = "") -> None:
        """What ``nvidia-smi`` says from now on."""
        for name, text in {"gpus": "\n".join(gpus), "status": str(status), "processes": processes}.items():
            (self.directory / name).write_text(text + "\n")

    def replica(self, present: bool) -> None:
        """Whether a replica of a model runs."""
        process = self.proc / "78"
        process.mkdir(exist_ok=True)
        (process / "cmdline").write_bytes(b"ray::ServeReplica:model-a:Model" if present else b"")

    @property
    def calls(self) -> list[str]:
        """What was asked of systemctl and ray."""
        calls = self.directory / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    @property
    def drained(self) -> Drain | None:
        """What the state file tells of."""
        return Drain.read(self.settings.state_file)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node with one GPU that is well."""
    made = Node(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    return made


@pytest.mark.parametrize(
    ("line", "fatal", "text"),
    [
        (
            "NVRM: Xid (PCI:0000:31:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            True,
            "GPU 0000:31:00: XID 79, fallen off the bus (pid='<unknown>', name=<unknown>, GPU has fallen off the bus.)",
        ),
        ("[ 12.3] NVRM: Xid (0000:31:00): 48, DBE", False, "GPU 0000:31:00: XID 48, memory error of two bits (DBE)"),
        ("NVRM: Xid (PCI:0000:31:00): 119", True, "GPU 0000:31:00: XID 119, its system processor doesn't answer"),
    ],
)
def test_an_xid_is_told(line: str, fatal: bool, text: str) -> None:
    assert find_xid(line) == Finding(fatal, text)


@pytest.mark.parametrize(
    "line",
    ["NVRM: Xid (PCI:0000:31:00): 31, pid=12, name=python, MMU Fault", "NVRM: loading NVIDIA UNIX", "", "Xid 79"],
)
def test_errors_of_programs_are_not_the_gpu_s(line: str) -> None:
    assert find_xid(line) is None


def test_gpus_are_read(node: Node) -> None:
    node.say(WELL, "00000000:4B:00.0, NVIDIA L4, [N/A], [N/A], [N/A]")
    assert read_gpus(node.settings) == [
        Gpu("00000000:31:00.0", "NVIDIA L4", 0, False, False),
        Gpu("00000000:4b:00.0", "NVIDIA L4", None, False, False),
    ]


def test_a_driver_that_does_not_answer_is_said(node: Node) -> None:
    node.say("Failed to initialize NVML: Driver/library version mismatch", status=18)
    with pytest.raises(HealthError, match="ended with 18: Failed to initialize NVML: Driver/library version mismatch"):
        read_gpus(node.settings)


def test_what_is_wrong_with_gpus() -> None:
    well = Gpu("a", "L4", 3, False, False)
    assert check_gpus([well], 1, {"a": 3}) == []
    assert [one.fatal for one in check_gpus([well], 2, {})] == [True]
    assert check_gpus([well], 1, {"a": 2}) == [Finding(False, "GPU a: 3 memory errors that were not corrected")]
    pending, failed = Gpu("a", "L4", 0, True, False), Gpu("a", "L4", 0, False, True)
    assert [one.fatal for one in check_gpus([pending], 1, {})] == [False]
    assert [one.fatal for one in check_gpus([failed], 1, {})] == [True]


def test_a_lost_gpu_drains_the_node(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    node.replica(present=True)
    watch = Watch(node.settings)
    watch.look()
    assert node.drained is None
    node.say()
    watch.look()
    assert node.drained
    assert node.drained.reasons == ["0 of 1 GPUs answer: none"]
    [asked] = node.calls
    assert asked.startswith(f"ray token {node.directory}/token drain-node --address=10.0.0.1:18379 --node-id=abc")
    assert "--deadline-remaining-seconds=600" in asked
    assert "llm-gpu-health undrain" in capsys.readouterr().err


def test_a_drained_node_stops_when_its_replicas_are_gone(node: Node) -> None:
    node.replica(present=True)
    watch = Watch(node.settings)
    llm_gpu_health.drain(node.settings, "a test")
    watch.look()
    assert "systemctl --quiet stop --no-block ray-worker.service" not in node.calls
    node.replica(present=False)
    watch.look()
    assert node.calls[-1] == "systemctl --quiet stop --no-block ray-worker.service"


def test_or_when_its_time_is_over(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.replica(present=True)
    llm_gpu_health.drain(node.settings, "a test")
    later = time.time() + 601
    monkeypatch.setattr(time, "time", lambda: later)
    Watch(node.settings).look()
    assert node.calls[-1] == "systemctl --quiet stop --no-block ray-worker.service"


def test_where_ray_does_not_drain_the_node_stops_at_once(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    node.script("ray", "#!/bin/sh\necho the head is gone >&2; exit 1\n")
    llm_gpu_health.drain(node.settings, "a test")
    assert "Ray doesn't move the replicas first: the head is gone" in capsys.readouterr().err
    assert node.calls == ["systemctl --quiet stop --no-block ray-worker.service"]


def test_a_second_reason_is_kept(node: Node) -> None:
    llm_gpu_health.drain(node.settings, "one")
    llm_gpu_health.drain(node.settings, "two")
    llm_gpu_health.drain(node.settings, "one")
    assert node.drained
    assert node.drained.reasons == ["one", "two"]
    assert len(node.calls) == 1


def test_a_drained_node_is_not_admitted_until_an_operator_says_so(node: Node) -> None:
    llm_gpu_health.admit(node.settings)
    llm_gpu_health.drain(node.settings, "a test")
    with pytest.raises(HealthError, match=r"this node is drained since \S+: a test. .*undrain"):
        llm_gpu_health.admit(node.settings)
    assert "starts" in llm_gpu_health.undrain(node.settings)
    assert node.calls[-1] == "systemctl --quiet restart --no-block ray-worker.service"
    llm_gpu_health.admit(node.settings)
    assert llm_gpu_health.undrain(node.settings) == "This node is not drained."


def test_a_gpu_that_is_still_broken_stays_out(node: Node) -> None:
    llm_gpu_health.drain(node.settings, "a test")
    node.say("00000000:31:00.0, NVIDIA L4, 0, No, Yes")
    with pytest.raises(HealthError, match=r"still broken: GPU 00000000:31:00\.0: rows of its memory can't be remapped"):
        llm_gpu_health.undrain(node.settings)
    assert node.drained


def test_a_state_file_that_can_not_be_read_admits_nobody(node: Node) -> None:
    node.settings.state_file.parent.mkdir()
    node.settings.state_file.write_text("{")
    with pytest.raises(HealthError, match="can't be read"):
        llm_gpu_health.admit(node.settings)


def test_what_holds_a_gpu_without_a_unit_is_ended(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        directory = node.proc / str(process.pid)
        directory.symlink_to(f"/proc/{process.pid}")
        node.say(WELL, processes=str(process.pid))
        try:
            group = Path(f"/proc/{process.pid}/cgroup").read_text()
            assert ".service" not in group.replace("user@", "")
            assert llm_gpu_health.reap(node.settings) == []
            assert process.poll() is None
            assert f"kill {process.pid}" in capsys.readouterr().err
            own = Settings(**{**vars(node.settings), "reaped_users": [getpass.getuser()]})
            assert llm_gpu_health.reap(own) == [process.pid]
            assert process.wait(5) < 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("group", "reaped"),
    [
        ("0::/system.slice/nvidia-persistenced.service", False),
        ("0::/user.slice/user-1000.slice/session-3.scope", True),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope", True),
        ("0::/system.slice/ray-worker.service", True),
    ],
)
def test_what_a_unit_owns_is_left_alone(group: str, reaped: bool, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    process = node.proc / "4711"
    process.mkdir()
    (process / "cgroup").write_text(group + "\n")
    (process / "cmdline").write_bytes(b"python\0train.py\0")
    node.say(WELL, processes="4711")
    ended: list[int] = []
    monkeypatch.setattr(llm_gpu_health, "_end", ended.append)
    llm_gpu_health.reap(Settings(**{**vars(node.settings), "reaped_users": [getpass.getuser()]}))
    assert ended == ([4711] if reaped else [])


def test_the_node_waits_for_all_its_gpus(node: Node) -> None:
    llm_gpu_health.prepare(node.settings)
    node.say()
    with pytest.raises(HealthError, match="0 of 1 GPUs answer"):
        llm_gpu_health.prepare(node.settings)


def test_the_command(node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "settings.json"
    values = {**vars(node.settings), "kernel_log": ["true"]}
    settings.write_text(json.dumps({name: str(v) if isinstance(v, Path) else v for name, v in values.items()}))
    assert main(["--settings", str(settings), "admit"]) == 0
    assert main(["--settings", str(settings), "drain", "a test"]) == 0
    assert main(["--settings", str(settings), "admit"]) == 1
    assert main(["--settings", str(settings), "status"]) == 0
    printed = capsys.readouterr().out
    assert "drained since" in printed
    assert "NVIDIA L4  uncorrected memory errors: 0" in printed
    assert main(["--settings", str(tmp_path / "none"), "status"]) == 1
    assert "Run site.yml --tags gpu" in capsys.readouterr().err
