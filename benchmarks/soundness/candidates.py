"""What an auditor misses by knowing only the likeliest tokens of each place: measured with all logits of a small model.

Run with the engine environment's Python, once `measure provers` has left its claims: `.engine/cpu/bin/python
benchmarks/soundness/candidates.py --cache .cache/soundness`. An unlikely token with much noise may be the rule's
choice, and is not among those that a prefill tells of; a margin then comes out smaller than it is. How often, and what
of a cheat's margins is lost, is found out here by comparing margins against some of the likeliest tokens, against these
and those with the most noise, and against all.
"""

import argparse
import json
from pathlib import Path
from typing import Any

MARGIN_MAX = 1.0
MISMATCH_MIN = 0.001
"""As in node/protocol/draws.py and audits.py."""
ANSWERS = 96
LISTS = ((20, 0), (50, 0), (50, 20), (64, 0))
"""(likeliest, noisiest) tokens that are known of each place."""
PROVERS = ("reference", "int8", "fp8", "int4", "temperature-0.9", "skips-8", "fine-tune", "small-model")
WORD = 0xFFFFFFFF


def noise_of(seed: int, positions: Any, vocabulary_size: int) -> Any:
    """Return the noise of all tokens at some positions: node/protocol/noise.py, for whole arrays."""
    import numpy  # noqa: PLC0415

    tokens = numpy.arange(vocabulary_size, dtype=numpy.uint64)[None, :]
    places = numpy.asarray(positions, dtype=numpy.uint64)[:, None]
    state = numpy.zeros((len(positions), vocabulary_size), dtype=numpy.uint64)
    for word in (seed & WORD, seed >> 32 & WORD, places, tokens):
        mixed = _rotate(numpy.asarray(word, dtype=numpy.uint64) * 0xCC9E2D51 & WORD, 15) * 0x1B873593 & WORD
        state = (_rotate(state ^ mixed, 13) * 5 + 0xE6546B64) & WORD
    state ^= 16
    state = (state ^ state >> 16) * 0x85EBCA6B & WORD
    state = (state ^ state >> 13) * 0xC2B2AE35 & WORD
    uniform = ((state ^ state >> 16).astype(numpy.float64) + 0.5) / 2.0**32
    return -numpy.log(-numpy.log1p(-numpy.minimum(uniform, 1.0 - 2.0**-24)))


def _rotate(word: Any, by: int) -> Any:
    return (word << by | word >> (32 - by)) & WORD


def logprobs_of(model: Any, prompt: list[int], tokens: list[int]) -> Any:
    """Return the log-probabilities of all tokens at each place of an answer."""
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0].float()
        return torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1).numpy().astype("float64")


def measure(model: Any, claims: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return, for each list and for all tokens: (winners outside, mismatches, margin), each per token."""
    import numpy  # noqa: PLC0415

    sums: dict[str, list[float]] = {}
    count = 0
    for claim in claims:
        prompt, tokens = claim["prompt"], claim["tokens"]
        logprobs = logprobs_of(model, prompt, tokens)
        positions = range(len(prompt) - 1, len(prompt) - 1 + len(tokens))
        noise = noise_of(claim["seed"], positions, logprobs.shape[1])
        scores = logprobs + noise
        own = scores[numpy.arange(len(tokens)), tokens]
        by_likelihood = numpy.argsort(numpy.argsort(-logprobs, axis=1), axis=1)
        by_noise = numpy.argsort(numpy.argsort(-noise, axis=1), axis=1)
        winners = scores.argmax(axis=1)
        count += len(tokens)
        for likeliest, noisiest in (*LISTS, (logprobs.shape[1], 0)):
            known = (by_likelihood < likeliest) | (by_noise < noisiest)
            best = numpy.where(known, scores, -numpy.inf).max(axis=1)
            margins = numpy.clip(best - own, 0.0, MARGIN_MAX)
            found = (
                float((~known[numpy.arange(len(tokens)), winners]).sum()),
                float((margins >= MISMATCH_MIN).sum()),
                float(margins.sum()),
            )
            name = "all" if likeliest == logprobs.shape[1] else f"{likeliest} + {noisiest}"
            sums[name] = [one + other for one, other in zip(sums.get(name, [0.0] * 3), found, strict=True)]
    return {name: [value / count for value in values] for name, values in sums.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--answers", type=int, default=ANSWERS)
    options = parser.parse_args()
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(options.cache / "models" / "sharp", dtype=torch.bfloat16).eval()
    print("| prover | known | winner outside | differ | margin |\n|---|---|---|---|---|")
    for prover in PROVERS:
        file = options.cache / "claims" / f"{prover}-0.json"
        if not file.exists():
            continue
        for name, (outside, differ, margin) in measure(model, json.loads(file.read_text())[: options.answers]).items():
            print(f"| {prover} | {name} | {outside:.2%} | {differ:.2%} | {margin:.4f} |", flush=True)


if __name__ == "__main__":
    main()
