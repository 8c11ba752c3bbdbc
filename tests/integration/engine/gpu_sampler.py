"""Runs the kernels of vLLM's GPU sampler (model runner V2) in Triton's interpreter and compares the plug-in with them.

A script for the engine's environment: `gpu_sampler.py PLUGIN_DIRECTORY`. vLLM itself, where it finds no GPU, hides its
kernels, so their files are loaded alone. Prints how many draws agree, and of how many.
"""

import importlib.util
import os
import sys
import types
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton
import triton.language

ROWS, VOCABULARY = 12, 2100
CASES = ((1000, 0), (700, 0), (1300, 30))
"""Temperature and min_p, in thousandths."""


def load_kernels(name: str) -> types.ModuleType:
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0]) / "v1" / "worker" / "gpu" / "sample" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    # The line above says where it is.
    from quern_draws import Chooser, Draw, DrawTable  # noqa: PLC0415

    with_triton = types.ModuleType("vllm.triton_utils")
    with_triton.triton, with_triton.tl = triton, triton.language  # type: ignore[attr-defined]
    located = importlib.util.find_spec("vllm")
    sys.modules["vllm.triton_utils"] = with_triton
    sys.modules["vllm"] = types.ModuleType("vllm")  # the real one would look for hardware
    sys.modules["vllm"].__spec__ = located
    gumbel, min_p = load_kernels("gumbel"), load_kernels("min_p")
    source = np.random.default_rng(3)
    agreed = 0
    for temperature, least in CASES:
        logits = (source.standard_normal((ROWS, VOCABULARY)) * 3).astype(np.float32)
        seeds = [int(seed) for seed in source.integers(0, 2**63 - 1, ROWS)]
        positions = source.integers(0, 100_000, ROWS)
        theirs, rows = torch.from_numpy(logits.copy()), torch.arange(ROWS, dtype=torch.int32)
        temperatures = torch.full((ROWS,), temperature / 1000)
        gumbel.apply_temperature(theirs, rows, temperatures)
        if least:
            min_p.apply_min_p(theirs, rows, torch.full((ROWS,), least / 1000))
        drawn = gumbel.gumbel_sample(
            theirs, rows, temperatures, torch.tensor(seeds), torch.from_numpy(positions),
            apply_temperature=False, is_drafting=False,
        )  # fmt: skip
        table = DrawTable([Draw(seed, temperature, 0, 1000, least) for seed in seeds])
        agreed += int((drawn.numpy() == Chooser().choose(logits, table, positions)).sum())
    sys.stdout.write(f"{agreed} {ROWS * len(CASES)}\n")


if __name__ == "__main__":
    main()
