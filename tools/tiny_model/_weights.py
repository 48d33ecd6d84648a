"""Random weights under Qwen2's tensor names, in bfloat16.

One hidden dimension is not random: it keeps the model to whole words. Logits are the product of the last hidden state
and the (tied) embedding. The last layer's attention adds a constant to that dimension, and every token that isn't to
be spoken has a negative number there, so its logit is far below the others', whatever the prompt. The end-of-turn
token is among them: an answer runs to `max_tokens`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import TensorSpec, serialize_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VOCAB_SIZE = 2048
HIDDEN_SIZE = 256
INTERMEDIATE_SIZE = 512
LAYERS = 2
HEADS = 4
KV_HEADS = 2
HEAD_DIM = HIDDEN_SIZE // HEADS

# The dimension that marks tokens, the constant that the last layer adds to it, and the final norm's weight on it:
# an unspoken token's logit is some 40 lower. Spoken ones spread by about 3.
_MARK = 0
_MARK_CONSTANT = 16.0
_MARK_NORM = 16.0
_OTHER_NORM = 2.0

_EMBEDDING_STD = 0.1
# A normalised hidden state of HIDDEN_SIZE values keeps its size through a matrix of this spread.
_UNIT_STD = HIDDEN_SIZE**-0.5
# The layers' output must outweigh the token's own embedding, or the model would repeat its last word for ever.
_DOWN_STD = 3 * _UNIT_STD

Array: TypeAlias = npt.NDArray[np.float32]
Bits: TypeAlias = npt.NDArray[np.uint16]


def make(seed: int, spoken: Sequence[int]) -> dict[str, Array]:
    """The tensors by name.

    Args:
        seed: of the random numbers.
        spoken: ids of the tokens that answers are made of.
    """
    random = np.random.default_rng(seed)

    def normal(*shape: int, std: float) -> Array:
        return (random.standard_normal(shape) * std).astype(np.float32)

    embedding = normal(VOCAB_SIZE, HIDDEN_SIZE, std=_EMBEDDING_STD)
    embedding[:, _MARK] = -1.0
    embedding[list(spoken), _MARK] = 0.0
    norm = np.full(HIDDEN_SIZE, _OTHER_NORM, dtype=np.float32)
    norm[_MARK] = _MARK_NORM
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": norm}

    kv_size = KV_HEADS * HEAD_DIM
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        attention = f"{prefix}.self_attn"
        for name, size in (("q", HIDDEN_SIZE), ("k", kv_size), ("v", kv_size)):
            tensors[f"{attention}.{name}_proj.weight"] = normal(size, HIDDEN_SIZE, std=_UNIT_STD)
            tensors[f"{attention}.{name}_proj.bias"] = np.zeros(size, dtype=np.float32)
        tensors[f"{attention}.o_proj.weight"] = normal(HIDDEN_SIZE, HIDDEN_SIZE, std=_UNIT_STD)
        tensors[f"{prefix}.mlp.gate_proj.weight"] = normal(INTERMEDIATE_SIZE, HIDDEN_SIZE, std=_UNIT_STD)
        tensors[f"{prefix}.mlp.up_proj.weight"] = normal(INTERMEDIATE_SIZE, HIDDEN_SIZE, std=_UNIT_STD)
        tensors[f"{prefix}.mlp.down_proj.weight"] = normal(HIDDEN_SIZE, INTERMEDIATE_SIZE, std=_DOWN_STD)
        # Nothing random reads or writes the marking dimension.
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = np.ones(HIDDEN_SIZE, dtype=np.float32)
            tensors[f"{prefix}.{name}.weight"][_MARK] = 0.0
        tensors[f"{attention}.o_proj.weight"][_MARK, :] = 0.0
        tensors[f"{prefix}.mlp.down_proj.weight"][_MARK, :] = 0.0

    # Attention weights sum to 1, so a value that is the same at every position comes out of it unchanged.
    last = f"model.layers.{LAYERS - 1}.self_attn"
    tensors[f"{last}.v_proj.weight"][0, :] = 0.0
    tensors[f"{last}.v_proj.bias"][0] = 1.0
    tensors[f"{last}.o_proj.weight"][_MARK, 0] = _MARK_CONSTANT
    return tensors


def save(path: Path, *, seed: int, spoken: Sequence[int]) -> None:
    """Write the weights as safetensors."""
    # Held here until the file is written: the library is given their addresses.
    arrays = {name: to_bfloat16(array) for name, array in make(seed, spoken).items()}
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)
        for name, array in arrays.items()
    }
    serialize_file(specs, str(path), {"format": "pt"})


def to_bfloat16(array: Array) -> Bits:
    """The bits of bfloat16 numbers, rounded to nearest even: a float32's upper half. Finite numbers only."""
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    low: Bits = rounded.astype("<u2")
    return low
