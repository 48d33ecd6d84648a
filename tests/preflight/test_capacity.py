"""The capacity planner's arithmetic, beside what the models' authors publish."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.architecture import read_architecture
from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.capacity import (
    GIB,
    MIB,
    Gpu,
    Node,
    Row,
    capacity_plan,
    fit,
    place,
    plan_table,
)

from .model_configs import DEEPSEEK_V3, LLAMA31_70B, MIXTRAL_8X7B, QWEN3_30B_A3B, QWEN25_32B

L4, A100, H100 = Gpu("NVIDIA L4", 23034), Gpu("NVIDIA A100-SXM4-80GB", 81920), Gpu("NVIDIA H100 80GB HBM3", 81559)


# What the model cards say, in 10^9.
@pytest.mark.parametrize(
    ("config", "billions"),
    [(QWEN25_32B, 32.8), (LLAMA31_70B, 70.6), (MIXTRAL_8X7B, 46.7), (QWEN3_30B_A3B, 30.5), (DEEPSEEK_V3, 671)],
    ids=["qwen2.5-32b", "llama-3.1-70b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3"],
)
def test_parameters_are_those_of_the_model_card(config: dict[str, Any], billions: float) -> None:
    assert read_architecture(config).parameters / 1e9 == pytest.approx(billions, rel=0.005)


@pytest.mark.parametrize(
    ("config", "kib"),
    # Layers x heads of keys and values x their width, twice, in two bytes; DeepSeek: 61 x (512 + 64) in two bytes.
    [(QWEN25_32B, 256), (LLAMA31_70B, 320), (QWEN3_30B_A3B, 96), (DEEPSEEK_V3, 68.625)],
    ids=["qwen2.5-32b", "llama-3.1-70b", "qwen3-30b-a3b", "deepseek-v3"],
)
def test_bytes_of_a_token(config: dict[str, Any], kib: float) -> None:
    found = fit(read_architecture(config), {"engine": {"max_model_len": 1024}}, H100)
    assert found.request / 1024 / 1024 == kib


def plan(config: dict[str, Any], gpu: Gpu, number: int, **model: Any) -> tuple[Row, list[str]]:
    """What a plan says of one model on one node, and its errors."""
    [row], errors = capacity_plan([{"id": "m", **model}], [Node("gpu1", (gpu,) * number)], {"m": config}, {})
    return row, errors


def test_what_is_left_is_what_vllm_may_use_less_weights_and_work_space() -> None:
    row, errors = plan(QWEN25_32B, L4, 4, tensor_parallel_size=4)
    assert not errors
    assert row.fit is not None
    assert row.fit.usable == 23034 * MIB * 0.92
    # 65.5 GB on four GPUs.
    assert row.fit.weights / GIB == pytest.approx(65.5e9 / 4 / GIB, rel=0.005)
    assert row.fit.cache == row.fit.usable - row.fit.weights - row.fit.overhead
    # A token takes 64 KiB on each of the four.
    assert row.fit.tokens == int(row.fit.cache / (64 * 1024))


def test_tokens_are_those_that_vllm_reports() -> None:
    """vllm 0.29.0 gave the demo's model 1 GiB for keys and values (VLLM_CPU_KVCACHE_SPACE), and logged what that holds.

    ``grep -rh "KV cache size" /var/lib/llm/ray/session_latest/logs`` on a demo node: 1,048,576 tokens, 512.00x.
    """
    tiny = {
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 512,
        "vocab_size": 2048,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    }
    found = fit(read_architecture(tiny), {"engine": {"max_model_len": 2048}}, A100)
    assert GIB / found.request == 512.0
    assert GIB / found.request * found.length == 1_048_576


def test_weights_that_are_known_count_instead_of_the_estimate() -> None:
    architecture = read_architecture(LLAMA31_70B)
    model = {"tensor_parallel_size": 8}
    assert fit(architecture, model, A100, 80 * GIB).weights == pytest.approx(10 * GIB)


@pytest.mark.parametrize(
    ("engine", "quantization", "bits"),
    [
        ({}, None, 16),
        ({"quantization": "fp8"}, None, 8),
        ({}, {"quant_method": "fp8"}, 8),
        ({}, {"quant_method": "awq", "bits": 4}, 4.25),
        ({}, {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}, 8),
        ({"dtype": "float32"}, None, 32),
    ],
)
def test_bits_of_a_weight(engine: dict[str, Any], quantization: dict[str, Any] | None, bits: float) -> None:
    config = {**LLAMA31_70B, **({"quantization_config": quantization} if quantization else {})}
    assert read_architecture(config, engine).weight_bytes * 8 == bits


def test_layers_that_slide_keep_their_window_only() -> None:
    sliding = {**QWEN25_32B, "layer_types": ["sliding_attention", "full_attention"] * 32, "sliding_window": 1024}
    whole, half = (fit(read_architecture(config), {}, A100).request for config in (QWEN25_32B, sliding))
    assert half == whole / 2 + whole / 2 / 32


def test_more_gpus_than_heads_keep_copies() -> None:
    architecture = read_architecture(QWEN3_30B_A3B)
    four, eight = (fit(architecture, {"tensor_parallel_size": size}, A100).request for size in (4, 8))
    assert four == eight


@pytest.mark.parametrize(
    ("config", "gpu", "number", "model", "change"),
    [
        (LLAMA31_70B, H100, 8, {"tensor_parallel_size": 2}, "set engine: {max_model_len: 33792}"),
        (LLAMA31_70B, A100, 8, {"tensor_parallel_size": 1}, "set tensor_parallel_size: 4"),
        (
            LLAMA31_70B,
            L4,
            8,
            {"tensor_parallel_size": 4},
            "serve it with weights of 8 bits (engine: {quantization: fp8}) and tensor_parallel_size: 8",
        ),
        (
            DEEPSEEK_V3,
            H100,
            8,
            {"tensor_parallel_size": 8},
            "set tensor_parallel_size: 8 and pipeline_parallel_size: 2, for 2 nodes",
        ),
    ],
    ids=["length", "tensor", "8 bits", "nodes"],
)
def test_what_does_not_fit_names_the_smallest_change(
    config: dict[str, Any], gpu: Gpu, number: int, model: dict[str, Any], change: str
) -> None:
    _, [error] = plan(config, gpu, number, **model)
    assert error.startswith(f"m doesn't fit: on each {gpu.name}, ")
    assert error.endswith(f"Smallest change: {change}.")


def test_the_smallest_change_is_enough() -> None:
    changed = {"tensor_parallel_size": 2, "engine": {"max_model_len": 33792}}
    assert not plan(LLAMA31_70B, H100, 8, **changed)[1]
    changed["engine"] = {"max_model_len": 33792 + 1024}
    assert plan(LLAMA31_70B, H100, 8, **changed)[1]


def test_a_model_that_is_not_understood_is_said_to_be_so() -> None:
    row, errors = plan({**QWEN25_32B, "mamba_d_state": 128}, A100, 8)
    assert row.fit is None
    assert row.note == "a model with state-space or linear layers (mamba_d_state)"
    assert not errors


def test_replicas_go_where_they_fill_a_node_best() -> None:
    nodes = [Node("a", (L4,) * 8), Node("b", (L4,) * 2)]
    placed, left_over = place({"small": [2], "big": [8], "other": [1]}, nodes)
    assert placed == {"small": [("b",)], "big": [("a",)], "other": []}
    assert left_over == ["other"]


def test_a_replica_spans_nodes_only_where_it_must() -> None:
    nodes = [Node("a", (L4,) * 4), Node("b", (L4,) * 4)]
    assert place({"wide": [8]}, nodes) == ({"wide": [("a", "b")]}, [])


def test_too_many_replicas_name_the_number_that_fits() -> None:
    models = [{"id": "m", "replicas": 3, "tensor_parallel_size": 4}]
    _, [error] = capacity_plan(models, [Node("gpu1", (A100,) * 8)], {"m": QWEN25_32B}, {})
    assert error == ("m: 3 replicas of 4 GPUs need 12, and the models before it leave 8. Set replicas: 2, or add GPUs.")


def test_the_table() -> None:
    models = [{"id": "m", "replicas": 2, "tensor_parallel_size": 4}]
    rows, _ = capacity_plan(models, [Node("gpu1", (A100,) * 8)], {"m": QWEN25_32B}, {})
    assert [" | ".join(line.split()) for line in plan_table(rows)] == [
        "model | replicas | x | GPUs | GPU | weights | work | cache | tokens | full | requests | nodes",
        "m | 2 | x | 4 | NVIDIA | A100-SXM4-80GB | 15.3 | GiB | 1.6 | GiB | 56.7 | GiB | 929340 | 28.4 | of | 32768"
        " | 2 | x | gpu1",
    ]
