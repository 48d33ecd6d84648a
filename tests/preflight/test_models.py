"""The filters that every stage reads the list of models by."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpu_cluster.platform.plugins.filter.serve_config import serve_config
from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.models import gpus_per_replica, replicas, slug


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [
        ("Qwen/Qwen2.5-32B-Instruct", "qwen-qwen2-5-32b-instruct"),
        ("demo/tiny-qwen2", "demo-tiny-qwen2"),
        ("--A//b__", "a-b"),
        ("7b", "7b"),
    ],
)
def test_slug(model_id: str, expected: str) -> None:
    assert slug(model_id) == expected


@pytest.mark.parametrize(
    ("model", "sizes", "gpus"),
    [
        ({}, (1, 1), 1),
        ({"replicas": 3, "tensor_parallel_size": 4, "pipeline_parallel_size": 2}, (3, 3), 8),
        ({"autoscaling": {"min": 0, "max": 5}}, (0, 5), 1),
    ],
)
def test_size(model: dict[str, Any], sizes: tuple[int, int], gpus: int) -> None:
    assert replicas(model) == sizes
    assert gpus_per_replica(model) == gpus


def test_serve_config() -> None:
    model = {"id": "demo/tiny-qwen2", "aliases": ["x"], "engine": {"dtype": "bfloat16"}}
    given = {"app_path": "/opt/app", "serve_port": 18000, "node_count": 3, "max_body_mib": 8, "accelerator": "cpu"}
    config = serve_config([model, {"id": "b"}], **given)
    gateway, first, second = config["applications"]
    assert config["proxy_location"] == "EveryNode"
    assert config["http_options"] == {"host": "0.0.0.0", "port": 18000, "keep_alive_timeout_s": 90}
    assert [(app["name"], app["route_prefix"]) for app in (gateway, first, second)] == [
        ("gateway", "/"),
        ("model-demo-tiny-qwen2", "/m/demo-tiny-qwen2"),
        ("model-b", "/m/b"),
    ]
    assert gateway["args"] == {
        "models": [
            {"id": "demo/tiny-qwen2", "slug": "demo-tiny-qwen2", "aliases": ["x"]},
            {"id": "b", "slug": "b", "aliases": []},
        ],
        "nodes": 3,
        "port": 18000,
        "max_body_mib": 8,
    }
    assert first["args"] == {"model": model, "accelerator": "cpu"}
    assert {app["runtime_env"]["env_vars"]["PYTHONPATH"] for app in config["applications"]} == {"/opt/app"}
    assert {app["import_path"] for app in (first, second)} == {"llm_gateway.model:build"}
