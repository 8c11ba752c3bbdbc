"""Validation refuses what could run code or could not be served, and says which file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from node.models.validation import ModelInvalidError, validate_model


def write_safetensors(path: Path, *, cut: int = 0) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(24)
    path.write_bytes(data[: len(data) - cut])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512})
    )
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    write_safetensors(tmp_path / "model.safetensors")
    return tmp_path


def test_a_whole_model_passes(model: Path) -> None:
    facts = validate_model(model)
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.context_length == 512


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda m: (m / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda m: (m / "config.json").unlink(), "config.json is missing"),
        (lambda m: (m / "config.json").write_text("["), "config.json is not JSON"),
        (lambda m: (m / "config.json").write_text('{"architectures": ["X"], "auto_map": {}}'), "auto_map"),
        (lambda m: (m / "config.json").write_text("{}"), "no architectures"),
        (lambda m: (m / "pytorch_model.bin").write_bytes(b"x"), "pytorch_model.bin: pickled weights"),
        (lambda m: (m / "modeling.py").write_bytes(b"x"), "modeling.py: code"),
        (lambda m: (m / "tokenizer_config.json").write_text("{}"), "chat_template"),
        (lambda m: (m / "model.safetensors").unlink(), "no \\*.safetensors"),
        (lambda m: write_safetensors(m / "model.safetensors", cut=3), "model.safetensors has"),
        (lambda m: (m / "model.safetensors").write_bytes(b"\xff" * 40), "cut off"),
        (lambda m: (m / "link").symlink_to("/etc/passwd"), "link is a symbolic link"),
        (
            lambda m: (m / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../x.safetensors"}}'),
            "not in the directory",
        ),
    ],
)
def test_what_is_wrong_is_named(model: Path, spoil: Callable[[Path], object], named: str) -> None:
    spoil(model)
    with pytest.raises(ModelInvalidError, match=named):
        validate_model(model)
