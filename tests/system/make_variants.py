"""Makes two models of the tiny one: a second model for the network, and the first with weights of four bits.

Run with the engine environment's Python. The second model has the layers of the tiny one in reverse order: it says
other things, which is all that is asked of it, and takes no training. The other one's matrices are rounded as
benchmarks/soundness/models.py rounds them.
"""

import argparse
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROUNDINGS = ROOT / "benchmarks" / "soundness" / "models.py"
SECOND, FOUR_BITS = "second", "four-bits"


def roundings() -> ModuleType:
    """Load the module that rounds weights. It is no package of this environment."""
    spec = importlib.util.spec_from_file_location("soundness_models", ROUNDINGS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(model: Any, tiny: Path, directory: Path) -> None:
    """Write a model beside the files of the tiny one that do not depend on the weights."""
    import torch  # noqa: PLC0415

    model.to(torch.bfloat16).save_pretrained(directory, safe_serialization=True)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, directory / name)


def make(tiny: Path, output: Path) -> None:
    """Make both models in `output`."""
    import torch  # noqa: PLC0415
    from transformers import LlamaForCausalLM  # noqa: PLC0415

    torch.set_num_threads(1)
    model = LlamaForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model.model.layers = torch.nn.ModuleList(reversed(model.model.layers))
    save(model, tiny, output / SECOND)
    model = LlamaForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    rounding = roundings()
    model.load_state_dict(rounding.rounded(model, rounding.int4), strict=False)
    save(model, tiny, output / FOUR_BITS)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Makes the models of the system test from the tiny one.")
    parser.add_argument("--tiny", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    make(arguments.tiny, arguments.output)


if __name__ == "__main__":
    main()
