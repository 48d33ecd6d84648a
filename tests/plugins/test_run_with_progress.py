"""run_with_progress over a local connection, by real playbook runs.

WITHOUT systemd: on a local connection the command is a session of its own. The transient unit is tested on real hosts,
by every playbook that installs the runtime.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


class LocalHost:
    """The control node itself, with a HOME of its own for the plugin's state."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "ansible.cfg").touch()
        collection = root / "collections/ansible_collections/gpu_cluster/platform"
        shutil.copytree(REPO / "plugins", collection / "plugins")
        self.environment = os.environ | {
            "ANSIBLE_COLLECTIONS_PATH": str(root / "collections"),
            "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(root / "tmp"),
            "ANSIBLE_NOCOLOR": "1",
            "HOME": str(root),
        }

    def start(
        self, options: dict[str, Any], task: dict[str, Any] | None = None, *arguments: str
    ) -> subprocess.Popen[str]:
        tasks = [
            {
                "name": "Run",
                "gpu_cluster.platform.run_with_progress": {"timeout_seconds": 60, "poll_seconds": 0.2, **options},
                "register": "ran",
            }
            | (task or {}),
            {
                "name": "Save",
                "ansible.builtin.copy": {
                    "content": "{{ ran | to_json }}",
                    "dest": str(self.root / "result.json"),
                    "mode": "0600",
                },
                "check_mode": False,
            },
        ]
        play = [
            {
                "name": "Test",
                "hosts": "localhost",
                "connection": "local",
                "gather_facts": False,
                "tasks": [{"name": "Both", "block": tasks[:1], "always": tasks[1:]}],
            }
        ]
        playbook = self.root / "play.json"
        playbook.write_text(json.dumps(play))
        command = [
            str(ANSIBLE_PLAYBOOK),
            "-i",
            "localhost,",
            "-e",
            f"ansible_python_interpreter={sys.executable}",
            str(playbook),
            *arguments,
        ]
        return subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(
        self, options: dict[str, Any], task: dict[str, Any] | None = None, *arguments: str
    ) -> tuple[dict[str, Any], str]:
        (self.root / "result.json").unlink(missing_ok=True)
        output, _ = self.start(options, task, *arguments).communicate(timeout=90)
        saved = self.root / "result.json"
        return (json.loads(saved.read_text()) if saved.exists() else {}), output

    def leftovers(self) -> list[Path]:
        return list((self.root / ".cache/run-with-progress").glob("*"))


@pytest.fixture
def host(tmp_path: Path) -> LocalHost:
    return LocalHost(tmp_path)


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def test_lines_are_shown_and_the_tail_is_returned(host: LocalHost) -> None:
    result, output = host.run(
        {
            "argv": shell('echo one; printf "two\\rthree\\n"; echo "$WORD $OTHER"; pwd'),
            "environment": {"WORD": "it's"},
            "chdir": "/",
        },
        {"environment": {"OTHER": "a b"}},
    )
    assert result["stdout_lines"] == ["one", "two", "three", "it's a b", "/"]
    assert (result["rc"], result["changed"], result["log_lines"]) == (0, True, 5)
    assert "[localhost] three" in output
    assert host.leftovers() == []


def test_lines_appear_while_the_command_runs(host: LocalHost) -> None:
    process = host.start({"argv": shell("echo early; sleep 6; echo late")})
    assert process.stdout is not None
    for line in process.stdout:
        if "[localhost] early" in line:
            seen = time.monotonic()
            break
    rest, _ = process.communicate(timeout=60)
    assert "[localhost] late" in rest
    assert time.monotonic() - seen > 4


def test_a_flood_is_cut_and_counted_and_control_characters_are_dropped(host: LocalHost) -> None:
    result, output = host.run({"argv": shell("seq 1 20000; printf '\\033[31mred\\007\\n'")})
    assert result["log_lines"] == 20001
    assert result["stdout_lines"][-1] == "red"
    assert len(re.findall(r"^\[localhost\]", output, re.M)) < 60
    assert re.search(r"… \d+ more lines", output)


def test_progress_and_changed_patterns(host: LocalHost) -> None:
    options = {
        "argv": shell("echo Collecting a; echo noise"),
        "progress_pattern": "^Collecting",
        "changed_pattern": "^Installed",
    }
    result, output = host.run(options)
    assert result["changed"] is False
    assert "Collecting a" in output
    assert "[localhost] noise" not in output
    assert host.run(options | {"changed_pattern": "noise"})[0]["changed"] is True


def test_a_failure_has_the_exit_status_and_the_last_lines(host: LocalHost) -> None:
    result, _ = host.run({"argv": shell("seq 1 9; echo why; exit 7"), "failure_tail_lines": 2})
    assert result["failed"] is True
    assert result["rc"] == 7
    assert result["msg"] == "/bin/sh failed with exit status 7.\nIts last lines:\n9\nwhy"
    assert host.leftovers() == []


def test_a_timeout_stops_the_command_and_its_children(host: LocalHost, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    result, _ = host.run({"argv": shell(f"(sleep 6; touch {flag}) & echo begun; wait"), "timeout_seconds": 2})
    assert result["rc"] == -1
    assert "stopped after 2 s" in result["msg"]
    assert "begun" in result["msg"]
    time.sleep(6)
    assert not flag.exists()


def test_a_second_run_follows_the_command_that_a_killed_controller_left(host: LocalHost, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    options = {"argv": shell(f"echo x >>{starts}; sleep 8; echo done")}
    process = host.start(options)
    while not starts.exists():
        assert process.poll() is None
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    result, output = host.run(options)
    assert result["stdout_lines"] == ["done"]
    assert "following it" in output
    assert starts.read_text() == "x\n"


def test_creates_and_check_mode(host: LocalHost, tmp_path: Path) -> None:
    made = tmp_path / "made"
    options = {"argv": ["touch", str(made)], "creates": str(made)}
    result, _ = host.run(options, None, "--check")
    assert result["changed"] is True
    assert not made.exists()
    assert host.run(options)[0]["changed"] is True
    assert host.run(options)[0]["changed"] is False
    assert host.run(options, None, "--check")[0]["changed"] is False


def test_no_log_shows_nothing(host: LocalHost) -> None:
    _, output = host.run({"argv": shell("echo my-secret; exit 1")}, {"no_log": True}, "-vvv")
    assert "my-secret" not in output


def test_the_first_hint_that_fits_explains_the_failure(host: LocalHost) -> None:
    hints = [{"pattern": "Errno 9", "text": "Wrong."}, {"pattern": "Errno 28", "text": "The disk of h1 is full."}]
    options = {"argv": shell("echo [Errno 28]; seq 1 99; false"), "failure_hints": hints, "failure_tail_lines": 1}
    assert host.run(options)[0]["msg"].splitlines() == [
        "The disk of h1 is full.",
        "/bin/sh failed with exit status 1.",
        "Its last lines:",
        "99",
    ]


def test_bad_options_are_named(host: LocalHost) -> None:
    assert "progress_pattern is not a regular expression" in host.run({"argv": ["true"], "progress_pattern": "("})[1]
    assert "argv is empty" in host.run({"argv": []})[1]
