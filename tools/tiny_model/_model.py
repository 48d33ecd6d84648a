"""The model's directory: configuration, tokenizer, weights."""

from __future__ import annotations

import filecmp
import json
import tempfile
from pathlib import Path
from typing import Any

from . import _tokenizer, _weights

# Length of an answer where the request doesn't set one.
DEFAULT_NEW_TOKENS = 256
MAX_POSITION_EMBEDDINGS = 4096


def make_model(dest: Path, *, seed: int = 0) -> bool:
    """Make the model's directory, whole or not at all.

    Args:
        dest: the directory. A different model in its place is replaced, the same one is left alone.
        seed: of the random weights; the same seed gives the same files.

    Returns:
        Whether anything changed.

    Raises:
        OSError: the directory can't be written.
    """
    dest = dest.absolute()
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.parent) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        _write(made, seed)
        if dest.is_dir() and _same_files(made, dest):
            return False
        if dest.exists():
            dest.rename(Path(scratch, "old"))
        made.rename(dest)
    return True


def _write(directory: Path, seed: int) -> None:
    tokenizer = _tokenizer.train()
    _write_json(directory / "config.json", _config())
    _write_json(directory / "generation_config.json", _generation_config())
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_json(directory / "tokenizer_config.json", _tokenizer.config(MAX_POSITION_EMBEDDINGS))
    _weights.save(directory / "model.safetensors", seed=seed, spoken=_tokenizer.spoken_ids(tokenizer))
    # Ray runs as another user than the one who makes the model.
    for path in directory.iterdir():
        path.chmod(0o644)
    directory.chmod(0o755)


def _config() -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": _weights.VOCAB_SIZE,
        "hidden_size": _weights.HIDDEN_SIZE,
        "intermediate_size": _weights.INTERMEDIATE_SIZE,
        "num_hidden_layers": _weights.LAYERS,
        "num_attention_heads": _weights.HEADS,
        "num_key_value_heads": _weights.KV_HEADS,
        "max_position_embeddings": MAX_POSITION_EMBEDDINGS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": _tokenizer.SPECIAL_TOKENS.index(_tokenizer.END_OF_TURN),
        "pad_token_id": _tokenizer.SPECIAL_TOKENS.index(_tokenizer.END_OF_TEXT),
        "torch_dtype": "bfloat16",
    }


def _generation_config() -> dict[str, Any]:
    special = _tokenizer.SPECIAL_TOKENS.index
    return {
        "do_sample": True,
        "eos_token_id": [special(_tokenizer.END_OF_TURN), special(_tokenizer.END_OF_TEXT)],
        "pad_token_id": special(_tokenizer.END_OF_TEXT),
        # It never ends its turn by itself. Without this, a request that sets no limit would fill the whole context and
        # leave no room for a second turn.
        "max_new_tokens": DEFAULT_NEW_TOKENS,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _same_files(made: Path, present: Path) -> bool:
    names = sorted(path.name for path in made.iterdir())
    if sorted(path.name for path in present.iterdir()) != names:
        return False
    _, mismatched, unreadable = filecmp.cmpfiles(made, present, names, shallow=False)
    return not mismatched and not unreadable
