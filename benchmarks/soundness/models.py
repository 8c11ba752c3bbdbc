"""Trains a sharp small model and the models of those who cheat with it, from a seed: what the measurements run on.

Run with the engine environment's Python: `.engine/cpu/bin/python benchmarks/soundness/models.py --tiny DIRECTORY
--output DIRECTORY`. A real language model is sure of most tokens. The tiny model of scripts/make_tiny_model.py is not,
so it goes on learning here, a part of its text by heart, until the likeliest token has a probability of about 0.7 on
its own text. The text is CPython's: its help topics and, for the other model and the fine-tune, modules of its standard
library (PSF licence). Weights are never committed.

Weights of int8, fp8 and int4 are rounded to these types and stored as bfloat16 again: vLLM has no kernels for all of
them on CPUs. Activations stay as they are, so the real ones would differ more, and be found sooner.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

VOCABULARY_SIZE = 2048
CONTEXT_LENGTH = 2048
LAYERS = 4
SMALL_HIDDEN_SIZE = 64
SMALL_LAYERS = 2
BATCH_SEQUENCES = 8
SEQUENCE_TOKENS = 128
SHARP_RATE = 2e-3
NEW_RATE = 4e-3
FINE_TUNE_RATE = 5e-4
WARMUP_STEPS = 10
SHARP_STEPS = 380
OTHER_STEPS = 220
SMALL_STEPS = 220
FINE_TUNE_STEPS = 30
HEART_CHARACTERS = 14_000
"""Learned by heart; of the rest of the help topics a part is seen again, so that it is not forgotten."""
HEART_SHARE = 0.75
SEED = 20_261_122
THREADS = 1
DROPPED_LAYER = 2
INT4_GROUP = 32
MODULES = ("argparse", "inspect", "typing", "subprocess", "tarfile", "zipfile")
RECIPE_FILE = "recipe.txt"
PROMPTS_FILE = "prompts.json"
PROMPT_TOKENS = 64
PROMPTS = 1536

Weights = dict[str, Any]


def recipe() -> str:
    """Return what decides the result: this program and the Python whose text it reads."""
    return hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()


def help_topics() -> str:
    """Return the help topics as one text, in an order of the seed."""
    from pydoc_data.topics import topics  # noqa: PLC0415

    parts = [f"{name}\n\n{text}\n" for name, text in sorted(topics.items())]
    random.Random(SEED).shuffle(parts)
    return "".join(parts)


def module_sources() -> str:
    """Return the sources of some modules as one text."""
    texts = []
    for name in MODULES:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None and found.origin.endswith(".py"):
            texts.append(Path(found.origin).read_text(encoding="utf-8"))
    return "\n".join(texts)


def new_model(tiny: Path, seed: int, hidden: int | None = None, layers: int = LAYERS) -> Any:
    """Return an untrained Llama with the tiny model's shape, or a smaller one."""
    import torch  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    torch.manual_seed(seed)
    config = LlamaConfig.from_pretrained(tiny)
    config.dtype = torch.float32
    if hidden is not None:
        config.hidden_size, config.intermediate_size = hidden, 3 * hidden
        config.num_attention_heads = config.num_key_value_heads = hidden // config.head_dim
    config.num_hidden_layers = layers
    return LlamaForCausalLM(config)


def train(model: Any, pick: Callable[[random.Random], list[int]], steps: int, rate: float, name: str) -> None:
    """Train `model` on sequences that `pick` draws."""
    import torch  # noqa: PLC0415

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * (1.0 - 0.95 * step / steps)
    )
    picker, started = random.Random(SEED), time.monotonic()
    model.train()
    for step in range(steps):
        batch = torch.tensor([pick(picker) for _ in range(BATCH_SEQUENCES)])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % max(1, steps // 8) == 0:
            seconds = time.monotonic() - started
            print(f"  {name}: step {step + 1} of {steps}, loss {float(loss.detach()):.2f}, {seconds:.0f} s", flush=True)


def picker_of(parts: Sequence[tuple[float, Sequence[int]]]) -> Callable[[random.Random], list[int]]:
    """Return what draws a sequence: from the first of `parts` whose cumulated share a random number is below."""

    def pick(picker: random.Random) -> list[int]:
        at = picker.random()
        tokens = next((tokens for share, tokens in parts if at < share), parts[-1][1])
        start = picker.randrange(len(tokens) - SEQUENCE_TOKENS)
        return list(tokens[start : start + SEQUENCE_TOKENS])

    return pick


def sharpness(model: Any, heart: Sequence[int], rest: Sequence[int]) -> dict[str, float]:
    """Return the mean probability of the likeliest token on both parts of the text."""
    import torch  # noqa: PLC0415

    model.eval()
    found = {}
    with torch.no_grad():
        for name, tokens in (("heart", heart), ("rest", rest)):
            places = range(0, len(tokens) - SEQUENCE_TOKENS, max(1, len(tokens) // 16))
            batch = torch.tensor([list(tokens[at : at + SEQUENCE_TOKENS]) for at in places])
            top = torch.softmax(model(input_ids=batch).logits[:, 32:], dim=-1).max(dim=-1).values
            found[name] = round(float(top.mean()), 3)
    return found


def is_rounded(name: str, weight: Any) -> bool:
    """Whether a quantised model has this weight in the smaller type: all matrices but the embedding's."""
    return weight.ndim == 2 and "embed" not in name and "lm_head" not in name


def int8(weight: Any) -> Any:
    """Round to 255 steps for each output."""
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / scale).round() * scale


def fp8(weight: Any) -> Any:
    """Round to fp8 (e4m3) with one scale for the matrix."""
    import torch  # noqa: PLC0415

    scale = weight.abs().max() / 448
    return (weight / scale).to(torch.float8_e4m3fn).to(weight.dtype) * scale


def int4(weight: Any) -> Any:
    """Round to 15 steps for each group of INT4_GROUP inputs."""
    grouped = weight.reshape(weight.shape[0], -1, INT4_GROUP)
    scale = grouped.abs().amax(dim=2, keepdim=True) / 7
    return ((grouped / scale).round() * scale).reshape(weight.shape)


def rounded(model: Any, rounding: Callable[[Any], Any]) -> Weights:
    """Return the weights of a model after rounding."""
    return {
        name: rounding(weight.float()) if is_rounded(name, weight) else weight
        for name, weight in model.state_dict().items()
    }


def write(model: Any, tokenizer: Any, directory: Path) -> None:
    """Write a model in bfloat16."""
    import torch  # noqa: PLC0415
    from transformers import GenerationConfig  # noqa: PLC0415

    model.to(torch.bfloat16).save_pretrained(directory, safe_serialization=True)
    GenerationConfig(bos_token_id=0, eos_token_id=1, pad_token_id=1).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def write_cheats(sharp: Path, tokenizer: Any, output: Path) -> None:
    """Write what needs no training: rounded weights, and one layer less."""
    import torch  # noqa: PLC0415
    from transformers import LlamaForCausalLM  # noqa: PLC0415

    for name, rounding in (("int8", int8), ("fp8", fp8), ("int4", int4)):
        model = LlamaForCausalLM.from_pretrained(sharp, dtype=torch.bfloat16)
        model.load_state_dict(rounded(model, rounding), strict=False)
        write(model, tokenizer, output / name)
    model = LlamaForCausalLM.from_pretrained(sharp, dtype=torch.bfloat16)
    del model.model.layers[DROPPED_LAYER]
    model.config.num_hidden_layers = LAYERS - 1
    model.config.layer_types = None
    write(model, tokenizer, output / "layer-dropped")


def write_prompts(heart: Sequence[int], rest: Sequence[int], output: Path) -> None:
    """Write the prompts of the measured answers: three of four from what is known by heart."""
    picker = random.Random(SEED + 1)
    prompts = []
    for number in range(PROMPTS):
        tokens = heart if number % 4 else rest
        start = picker.randrange(len(tokens) - PROMPT_TOKENS)
        prompts.append(list(tokens[start : start + PROMPT_TOKENS]))
    (output / PROMPTS_FILE).write_text(json.dumps(prompts))


def make(tiny: Path, output: Path) -> None:
    """Make all models at `output`, unless they are there already."""
    import torch  # noqa: PLC0415
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: PLC0415

    file = output / RECIPE_FILE
    if file.is_file() and file.read_text().strip() == recipe():
        print(f"The models are at {output} already.")
        return
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    torch.set_num_threads(THREADS)
    topics, sources = help_topics(), module_sources()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    heart = tokenizer(topics[:HEART_CHARACTERS], add_special_tokens=False)["input_ids"]
    rest = tokenizer(topics[HEART_CHARACTERS:], add_special_tokens=False)["input_ids"]
    other = tokenizer(sources, add_special_tokens=False)["input_ids"]
    print(f"{len(heart)} tokens to learn by heart, {len(rest)} others, {len(other)} of sources", flush=True)
    own_text = picker_of([(HEART_SHARE, heart), (1.0, rest)])
    write_prompts(heart, rest, output)

    model = LlamaForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    train(model, own_text, SHARP_STEPS, SHARP_RATE, "the sharp model")
    figures: dict[str, object] = {"sharpness": sharpness(model, heart, rest)}
    print(f"  probability of the likeliest token: {figures['sharpness']}", flush=True)
    write(model, tokenizer, output / "sharp")
    write_cheats(output / "sharp", tokenizer, output)

    model = LlamaForCausalLM.from_pretrained(output / "sharp", dtype=torch.float32)
    train(model, picker_of([(1.0, other)]), FINE_TUNE_STEPS, FINE_TUNE_RATE, "the fine-tune")
    write(model, tokenizer, output / "fine-tune")
    model = new_model(tiny, SEED + 2, SMALL_HIDDEN_SIZE, SMALL_LAYERS)
    train(model, own_text, SMALL_STEPS, NEW_RATE, "the small model")
    figures["small model's sharpness"] = sharpness(model, heart, rest)
    write(model, tokenizer, output / "small-model")
    model = new_model(tiny, SEED + 1)
    train(model, picker_of([(0.5, other), (1.0, rest)]), OTHER_STEPS, NEW_RATE, "the other model")
    write(model, tokenizer, output / "other-model")
    (output / "figures.json").write_text(json.dumps(figures))
    file.write_text(recipe() + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Trains the models that soundness is measured on.")
    parser.add_argument("--tiny", type=Path, required=True, help="the tiny model, e.g. .cache/tiny-model")
    parser.add_argument("--output", type=Path, required=True, help="directory to make, e.g. .cache/soundness/models")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        make(arguments.tiny, arguments.output)
    except ImportError as error:
        sys.exit(f"models: {error}; run it with the Python of the engine environment (.engine/cpu/bin/python)")


if __name__ == "__main__":
    main()
