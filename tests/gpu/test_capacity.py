"""The role preflight's capacity check, run by ansible-playbook on machines whose hardware is made of files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from .conftest import REPO, build

ANSIBLE_PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
}


def check(machine: str, tmp_path: Path, **variables: Any) -> tuple[int, str]:
    """The exit status and the output, on one line, of a play that plans a model on the machine, where it lies."""
    found = build(machine, tmp_path / "machine")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    settings = {
        "ansible_python_interpreter": sys.executable,
        "preflight_replica_hosts": ["localhost"],
        "preflight_hub_url": "",
        "llm_models": [{"id": "own", "source": str(model)}],
        **variables,
    }
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            {"gpu_cluster.platform.gpu_facts": found.arguments},
            {"ansible.builtin.import_role": {"name": "preflight", "tasks_from": "capacity"}},
        ],
    }
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(yaml.safe_dump([play]))
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(yaml.safe_dump({"all": {"hosts": {"localhost": settings}}}))
    done = subprocess.run(
        [ANSIBLE_PLAYBOOK, "-i", inventory, playbook],
        cwd=REPO,
        env=os.environ | {"PATH": f"{found.path}:{os.environ['PATH']}"},
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).replace("''", "'").split())


def test_the_gpus_that_answer_are_planned_with(tmp_path: Path) -> None:
    status, output = check("l4", tmp_path)
    assert status == 0, output
    assert "NVIDIA L4" in output
    assert "Every model fits." in output


def test_what_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    long = [{"id": "own", "source": str(tmp_path / "model"), "engine": {"max_model_len": 4_000_000}}]
    status, output = check("l4", tmp_path, llm_models=long)
    assert status != 0
    assert "own doesn't fit: on each NVIDIA L4" in output
    assert "Smallest change: set engine: {max_model_len:" in output


def test_unless_the_plan_is_only_wanted_printed(tmp_path: Path) -> None:
    long = [{"id": "own", "source": str(tmp_path / "model"), "engine": {"max_model_len": 4_000_000}}]
    status, output = check("l4", tmp_path, llm_models=long, preflight_capacity_enforced=False)
    assert status == 0, output
    assert "0." in output


def test_memory_that_is_not_known_yet_is_said(tmp_path: Path) -> None:
    status, output = check("v100", tmp_path)
    assert status == 0, output
    assert "How much memory the GPUs of localhost have isn't known before their driver is loaded" in output


def test_the_inventory_says_it_before_the_driver_does(tmp_path: Path) -> None:
    status, output = check("v100", tmp_path, preflight_gpus=[{"name": "Tesla V100", "memory_mib": 32768}])
    assert status == 0, output
    assert "Tesla V100" in output


def test_pieces_of_a_gpu_are_not_planned_with(tmp_path: Path) -> None:
    status, output = check("mig", tmp_path)
    assert status == 0, output
    assert "isn't known" in output
