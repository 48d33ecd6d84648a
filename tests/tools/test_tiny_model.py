"""The demo's small model: its files, and that answers can be read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from tiny_model import _tokenizer, _weights, make_model
from tiny_model.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    assert make_model(path, seed=1)
    return path


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    return Tokenizer.from_file(str(model / "tokenizer.json"))


def read(model: Path, name: str) -> Any:
    return json.loads((model / name).read_text(encoding="utf-8"))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def to_float32(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_directory_holds_what_a_hub_model_has(model: Path) -> None:
    assert sorted(contents(model)) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in model.parent.iterdir()] == ["tiny"], "nothing temporary is left"
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in model.iterdir())
    assert model.stat().st_mode & 0o777 == 0o755


def test_tensors_have_qwen2s_names_shapes_and_type(model: Path) -> None:
    config = read(model, "config.json")
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = config["num_key_value_heads"] * hidden // config["num_attention_heads"]
    expected = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, size in {"q": hidden, "k": kv, "v": kv}.items():
            expected[f"{prefix}self_attn.{name}_proj.weight"] = [size, hidden]
            expected[f"{prefix}self_attn.{name}_proj.bias"] = [size]
        expected |= {
            f"{prefix}self_attn.o_proj.weight": [hidden, hidden],
            f"{prefix}mlp.gate_proj.weight": [inner, hidden],
            f"{prefix}mlp.up_proj.weight": [inner, hidden],
            f"{prefix}mlp.down_proj.weight": [hidden, inner],
            f"{prefix}input_layernorm.weight": [hidden],
            f"{prefix}post_attention_layernorm.weight": [hidden],
        }
    with safe_open(model / "model.safetensors", framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        assert {name: part.get_shape() for name, part in slices.items()} == expected
        assert {part.get_dtype() for part in slices.values()} == {"BF16"}
        # transformers wants to know who wrote the file.
        assert file.metadata() == {"format": "pt"}
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["tie_word_embeddings"] is True, "there is no lm_head tensor"
    assert config["max_position_embeddings"] >= 2048


def test_same_seed_same_files(model: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "same", seed=1)
    make_model(tmp_path / "other", seed=2)
    same, other = contents(tmp_path / "same"), contents(tmp_path / "other")
    assert same == contents(model)
    assert other.pop("model.safetensors") != same.pop("model.safetensors")
    assert other == same


def test_the_same_model_is_left_alone_and_another_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / "deep" / "tiny"
    assert main([str(dest)]) == 0
    before = dest.stat().st_ino
    assert main([str(dest)]) == 0
    assert dest.stat().st_ino == before
    (dest / "config.json").write_text("{")
    (dest / "stray").mkdir()
    assert main([str(dest)]) == 0
    assert read(dest, "config.json")["model_type"] == "qwen2"
    assert not (dest / "stray").exists()
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()] == ["made", "unchanged", "made"]


def test_a_failure_leaves_the_old_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "tiny"
    make_model(dest, seed=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_weights, "save", full)
    assert main([str(dest), "--seed", "5"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert contents(dest) == contents(model)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_tokenizer_takes_any_text_and_fits_the_model(model: Path, tokenizer: Any) -> None:
    config = read(model, "config.json")
    assert tokenizer.get_vocab_size() <= config["vocab_size"]
    for text in ("Hello, how are you?", "Zwölf Boxkämpfer\n\t世界 🙂", "<|im_start|> is special", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    special = {name: tokenizer.token_to_id(name) for name in _tokenizer.SPECIAL_TOKENS}
    assert list(special.values()) == [0, 1, 2]
    assert config["eos_token_id"] == special["<|im_end|>"]
    assert read(model, "generation_config.json")["eos_token_id"] == [special["<|im_end|>"], special["<|endoftext|>"]]


def test_chat_template_is_chatml(model: Path, tokenizer: Any) -> None:
    template = jinja2.Environment(autoescape=False).from_string(read(model, "tokenizer_config.json")["chat_template"])
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    text = template.render(messages=messages, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template.render(messages=messages) == text.removesuffix("<|im_start|>assistant\n")
    assert tokenizer.encode(text).ids.count(tokenizer.token_to_id("<|im_start|>")) == 3


def test_bfloat16_rounds_to_nearest_even() -> None:
    exact = [0.0, -1.0, 16.0, 0.5]
    bits = _weights.to_bfloat16(np.array([*exact, 1 + 2**-9, 1 + 2**-8, 1 + 3 * 2**-8], dtype=np.float32))
    assert to_float32(bits).tolist() == [*exact, 1.0, 1.0, 1 + 2**-6]


def test_answers_are_whole_words_and_never_end_by_themselves(model: Path, tokenizer: Any) -> None:
    """The model's own arithmetic, in float32, by the formulas of the Qwen2 architecture."""
    with safe_open(model / "model.safetensors", framework="numpy") as file:
        names = list(file.keys())
    raw = read_bfloat16(model / "model.safetensors", names)
    spoken = set(_tokenizer.spoken_ids(tokenizer))
    assert len(spoken) > 500
    ids = tokenizer.encode(
        "<|im_start|>user\nWhat is a Rayleigh distribution? ñ<|im_end|>\n<|im_start|>assistant\n"
    ).ids
    said = []
    for _ in range(24):
        scores = logits(raw, ids)
        silent = np.delete(scores, sorted(spoken))
        # e^-20 a token: sampling at temperature 1 does not leave the words either.
        assert scores.max() - silent.max() > 20
        said.append(int(scores.argmax()))
        ids = [*ids, said[-1]]
    assert set(tokenizer.decode(said).split()) <= set(_tokenizer.words())
    assert len(set(said)) > 4, "it says more than one word"


def read_bfloat16(path: Path, names: list[str]) -> dict[str, Any]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name in names:
        begin, end = header[name]["data_offsets"]
        bits = np.frombuffer(data[8 + length + begin : 8 + length + end], dtype="<u2")
        tensors[name] = to_float32(bits).reshape(header[name]["shape"])
    return tensors


def logits(raw: dict[str, Any], ids: list[int]) -> Any:
    """The scores of the next token after `ids`."""
    size, head = _weights.HIDDEN_SIZE, _weights.HEAD_DIM

    def norm(x: Any, weight: Any) -> Any:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weight

    angle = np.arange(len(ids))[:, None] / 10000.0 ** (np.arange(0, head, 2) / head)
    cos, sin = (np.concatenate([part, part], -1)[:, None] for part in (np.cos(angle), np.sin(angle)))

    def rotate(x: Any) -> Any:
        return x * cos + np.concatenate([-x[..., head // 2 :], x[..., : head // 2]], -1) * sin

    hidden = raw["model.embed_tokens.weight"][ids]
    for layer in range(_weights.LAYERS):
        prefix = f"model.layers.{layer}."
        weights = {name.removeprefix(prefix): value for name, value in raw.items() if name.startswith(prefix)}
        x = norm(hidden, weights["input_layernorm.weight"])
        q, k, v = (
            (x @ weights[f"self_attn.{name}_proj.weight"].T + weights[f"self_attn.{name}_proj.bias"]).reshape(
                len(ids), -1, head
            )
            for name in "qkv"
        )
        groups = _weights.HEADS // _weights.KV_HEADS
        k, v = np.repeat(rotate(k), groups, 1), np.repeat(v, groups, 1)
        scores = np.einsum("ihd,jhd->hij", rotate(q), k) / np.sqrt(head)
        scores = np.where(np.tri(len(ids), dtype=bool), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        attended = np.einsum("hij,jhd->ihd", shares, v).reshape(len(ids), size)
        hidden = hidden + attended @ weights["self_attn.o_proj.weight"].T
        x = norm(hidden, weights["post_attention_layernorm.weight"])
        gate = x @ weights["mlp.gate_proj.weight"].T
        hidden = (
            hidden
            + (gate / (1 + np.exp(-gate)) * (x @ weights["mlp.up_proj.weight"].T)) @ weights["mlp.down_proj.weight"].T
        )
    return raw["model.embed_tokens.weight"] @ norm(hidden[-1], raw["model.norm.weight"])
