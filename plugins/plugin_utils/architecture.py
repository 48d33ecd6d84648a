# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What of a model's ``config.json`` decides about memory.

Sources: the keys are those of transformers' configuration classes, the defaults those of vllm 0.29.0
(``config/model.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_BYTES = {"float32": 4.0, "float": 4.0, "float16": 2.0, "half": 2.0, "bfloat16": 2.0}
# Scales and zero points of 4-bit groups of 128 add about a bit to four.
_GROUP_BITS = 0.25


class UnknownModelError(ValueError):
    """A ``config.json`` that the arithmetic doesn't cover; the message says what is missing."""


@dataclass(frozen=True)
class Architecture:
    """What of a ``config.json`` decides about memory.

    Attributes:
        layers: number of layers.
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: heads of keys and values.
        head_dim: width of a head.
        vocabulary: number of tokens.
        longest: the longest context that the model was made for, in tokens.
        embedding_parameters: of the embedding and the output layer; never quantised.
        layer_parameters: of all layers.
        latent: width of a token's compressed keys and values (multi-head latent attention); 0 where there are none.
        window: tokens that a sliding layer keeps; 0 where no layer slides.
        sliding_layers: how many layers slide.
        widest: width of the widest intermediate activation of a token.
        element_bytes: bytes of an activation and of a weight that isn't quantised.
        weight_bytes: bytes of a weight in the layers.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    longest: int
    embedding_parameters: int
    layer_parameters: int
    latent: int
    window: int
    sliding_layers: int
    widest: int
    element_bytes: float
    weight_bytes: float

    @property
    def parameters(self) -> int:
        """All parameters of the language model."""
        return self.embedding_parameters + self.layer_parameters

    @property
    def weights(self) -> float:
        """Bytes of the weights."""
        return self.embedding_parameters * self.element_bytes + self.layer_parameters * self.weight_bytes


def read_architecture(config: Mapping[str, Any], engine: Mapping[str, Any] | None = None) -> Architecture:
    """What of a ``config.json`` decides about memory.

    Args:
        config: the file's content.
        engine: vLLM's arguments, of which ``dtype`` and ``quantization`` count.

    Raises:
        UnknownModelError: the file lacks a size, or the model is of a kind that isn't covered.
    """
    engine = engine or {}
    text = {**config, **config.get("text_config", {})}
    hybrid = [key for key in ("mamba_d_state", "ssm_cfg", "linear_num_key_heads", "state_size") if key in text]
    if hybrid:
        raise UnknownModelError(f"a model with state-space or linear layers ({hybrid[0]})")
    if text.get("is_encoder_decoder"):
        raise UnknownModelError("an encoder-decoder model")
    hidden, layers, heads = (_size(text, key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    vocabulary = _size(text, "vocab_size")
    kv_heads = int(text.get("num_key_value_heads") or heads)
    head_dim = int(text.get("head_dim") or hidden // heads)
    latent = _size(text, "kv_lora_rank") + _size(text, "qk_rope_head_dim") if text.get("kv_lora_rank") else 0
    dense = 3 * hidden * int(text.get("intermediate_size") or 4 * hidden)
    sparse, widest = _experts(text, hidden)
    dense_layers = layers if not sparse else _dense_layers(text, layers)
    attention = _latent_attention(text, hidden, heads) if latent else hidden * head_dim * 2 * (heads + kv_heads)
    layer_parameters = layers * (attention + 2 * hidden) + dense_layers * dense + (layers - dense_layers) * sparse
    sliding = [kind for kind in text.get("layer_types") or () if kind == "sliding_attention"]
    element_bytes = _element_bytes(text, config, engine)
    return Architecture(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        longest=int(text.get("max_position_embeddings") or 0),
        embedding_parameters=vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2),
        layer_parameters=layer_parameters,
        latent=latent,
        window=int(text.get("sliding_window") or 0) if sliding else 0,
        sliding_layers=len(sliding),
        widest=max(widest, 0 if dense_layers == 0 else 2 * int(text.get("intermediate_size") or 4 * hidden)),
        element_bytes=element_bytes,
        weight_bytes=_weight_bytes(config, engine, element_bytes),
    )


def _size(text: Mapping[str, Any], key: str) -> int:
    if not isinstance(text.get(key), int):
        raise UnknownModelError(f"its config.json has no {key}")
    return int(text[key])


def _experts(text: Mapping[str, Any], hidden: int) -> tuple[int, int]:
    """Parameters of a layer's experts and router, and the width of a token's activations; zeros without experts."""
    number = int(text.get("num_experts") or text.get("num_local_experts") or text.get("n_routed_experts") or 0)
    if not number:
        return 0, 0
    width = int(text.get("moe_intermediate_size") or _size(text, "intermediate_size"))
    shared = int(text.get("shared_expert_intermediate_size") or int(text.get("n_shared_experts") or 0) * width)
    active = int(text.get("num_experts_per_tok") or 1)
    return 3 * hidden * (number * width + shared) + hidden * number, 2 * active * width


def _dense_layers(text: Mapping[str, Any], layers: int) -> int:
    """Layers without experts: the first ones (DeepSeek), those that are named, or all but every n-th (Qwen)."""
    first = int(text.get("first_k_dense_replace") or 0)
    named = len(text.get("mlp_only_layers") or ())
    step = int(text.get("decoder_sparse_step") or 1)
    return first + named + (layers - layers // step)


def _latent_attention(text: Mapping[str, Any], hidden: int, heads: int) -> int:
    plain, rotary, rank, value = (
        _size(text, key) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank", "v_head_dim")
    )
    query_rank = text.get("q_lora_rank")
    into_query = heads * (plain + rotary)
    query = int(query_rank) * (hidden + into_query) if query_rank else hidden * into_query
    return query + hidden * (rank + rotary) + rank * heads * (plain + value) + heads * value * hidden


def _element_bytes(text: Mapping[str, Any], config: Mapping[str, Any], engine: Mapping[str, Any]) -> float:
    name = str(engine.get("dtype") or "auto")
    if name == "auto":
        name = str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or "bfloat16")
        # vLLM serves such a model in half the bytes; config/model.py.
        name = "float16" if name == "float32" else name
    if name not in _BYTES:
        raise UnknownModelError(f"dtype {name}")
    return _BYTES[name]


def _weight_bytes(config: Mapping[str, Any], engine: Mapping[str, Any], element_bytes: float) -> float:
    quantization = config.get("quantization_config") or {}
    method = str(quantization.get("quant_method") or engine.get("quantization") or "")
    if not method:
        return element_bytes
    bits = quantization.get("bits") or quantization.get("w_bit") or _compressed_bits(quantization)
    if bits is None:
        if method.startswith("fp8") or method in {"fbgemm_fp8", "int8"}:
            bits = 8
        elif method in {"awq", "gptq", "bitsandbytes", "mxfp4", "modelopt_fp4", "nvfp4"} or quantization.get(
            "load_in_4bit"
        ):
            bits = 4
        else:
            raise UnknownModelError(f"quantisation {method}")
    return (float(bits) + (_GROUP_BITS if int(bits) < 8 else 0)) / 8


def _compressed_bits(quantization: Mapping[str, Any]) -> int | None:
    """The bits of the weights, as compressed-tensors writes them."""
    found = [group.get("weights") or {} for group in (quantization.get("config_groups") or {}).values()]
    numbers = [int(weights["num_bits"]) for weights in found if weights.get("num_bits")]
    return max(numbers) if numbers else None
