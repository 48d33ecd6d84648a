"""From the inventory's model to ray.serve.llm's config."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from llm_gateway._llm_config import llm_config
from llm_gateway.config import ModelApplication


def config(accelerator: str = "gpu", **model: Any) -> dict[str, Any]:
    return llm_config(
        ModelApplication.model_validate({"model": {"id": "org/name", **model}, "accelerator": accelerator})
    )


def test_defaults() -> None:
    made = config()
    assert made["model_loading_config"] == {"model_id": "org/name", "model_source": "org/name"}
    assert made["engine_kwargs"] == {
        "max_num_seqs": 256,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
    }
    assert made["deployment_config"]["num_replicas"] == 1
    assert made["accelerator_config"] == {"kind": "gpu"}
    assert "placement_group_config" not in made
    assert "HF_HUB_OFFLINE" not in made["runtime_env"]["env_vars"]


def test_engine_arguments_are_untouched() -> None:
    made = config(engine={"max_model_len": 2048, "anything": {"a": [1]}}, tensor_parallel_size=4)
    assert made["engine_kwargs"] == {
        "max_model_len": 2048,
        "anything": {"a": [1]},
        "max_num_seqs": 256,
        "tensor_parallel_size": 4,
        "pipeline_parallel_size": 1,
    }


def test_the_engine_batches_what_may_run_unless_it_is_told_otherwise() -> None:
    made = config(max_ongoing_requests=8, max_queued_requests=2)
    assert made["engine_kwargs"]["max_num_seqs"] == 8
    assert made["experimental_configs"]["limits"] == {"running": 8, "waiting": 2}
    assert config(max_ongoing_requests=8, engine={"max_num_seqs": 4})["engine_kwargs"]["max_num_seqs"] == 4


def test_a_cpu_node_needs_one_cpu_per_device() -> None:
    made = config("cpu", source="/srv/m", tensor_parallel_size=2, env={"OMP_NUM_THREADS": "1"})
    assert made["placement_group_config"] == {"bundles": [{"CPU": 1}, {"CPU": 1}]}
    assert made["deployment_config"]["ray_actor_options"] == {"num_cpus": 0}
    environment = made["runtime_env"]["env_vars"]
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["OMP_NUM_THREADS"] == "1"


def test_autoscaling_takes_the_place_of_replicas() -> None:
    made = config(autoscaling={"min": 1, "max": 4, "target_ongoing_requests": 8})
    assert "num_replicas" not in made["deployment_config"]
    assert made["deployment_config"]["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 8,
    }


@pytest.mark.parametrize(
    "bad",
    [
        {"tensor_paralel_size": 2},
        {"replicas": 0},
        {"replicas": 2, "autoscaling": {"min": 1, "max": 2, "target_ongoing_requests": 1}},
        {"autoscaling": {"min": 3, "max": 2, "target_ongoing_requests": 1}},
        {"id": ""},
    ],
)
def test_bad_models_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**bad)
