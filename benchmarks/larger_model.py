"""Makes a model that costs more than the tiny one: `ENGINE_PYTHON -m benchmarks.larger_model DIRECTORY`.

A Llama of 63 million parameters with random weights, 50 times as many as the tiny model has, and eight times its
vocabulary; the tokenizer is the tiny model's. Its last norm is scaled up, so that it is about as sure of its tokens as
a trained one. Runs in the engine's environment.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TINY_MODEL = Path(__file__).resolve().parents[1] / ".cache" / "tiny-model"
SIZES = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 16384,
}
SURENESS = 8.0
"""What the last norm is multiplied by: logits spread by about 4."""
SEED = 1


def main() -> None:
    """Write it."""
    directory = Path(sys.argv[1])
    told = json.loads((TINY_MODEL / "config.json").read_text(encoding="utf-8"))
    kept = {name: value for name, value in told.items() if name not in {"architectures", "model_type"}}
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(**{**kept, **SIZES}))
    with torch.no_grad():
        model.model.norm.weight.mul_(SURENESS)
    directory.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TINY_MODEL / name, directory / name)


if __name__ == "__main__":
    main()
