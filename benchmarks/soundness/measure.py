"""Runs provers and auditors on real vLLM, one engine at a time: python -m benchmarks.soundness.measure --help

First every prover answers and computes nonces; then an auditor's engine prefills all their answers. What they found is
kept under the cache directory, so that a run goes on where the last one stopped.
"""

import json
import time
from pathlib import Path

import click
import trio

from benchmarks.soundness.claims import (
    NONCES,
    Claim,
    make_claims,
    nonce_vectors,
    read_claims,
    write_claims,
)
from benchmarks.soundness.engines import open_engine
from benchmarks.soundness.judging import CANDIDATES, TokenFigures, judge
from benchmarks.soundness.variants import ENGINES, PROVERS, REFERENCE
from node.engine.client import EngineClient
from node.protocol.draws import Prefill

PREFILLS_AT_ONCE = 8
MICRO = 1_000_000
DEFAULT_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "soundness"


def claims_file(cache: Path, prover: str, part: int) -> Path:
    """Where a prover's claims are."""
    return cache / "claims" / f"{prover}-{part}.json"


def vectors_file(cache: Path, engine: str) -> Path:
    """Where an engine's vectors of nonces are."""
    return cache / "nonces" / f"{engine}.bin"


def figures_file(cache: Path, auditor: str, prover: str, part: int) -> Path:
    """Where an auditor's figures of a prover's answers are."""
    return cache / "figures" / auditor / f"{prover}-{part}.json"


async def run_provers(cache: Path, engine: str, part: int, answers: int) -> None:
    """Have all provers of one engine answer, and compute its nonces."""
    wanted = [p for p in PROVERS.values() if p.engine == engine and not claims_file(cache, p.name, part).exists()]
    if not wanted and vectors_file(cache, engine).exists():
        return
    started = time.monotonic()
    async with open_engine(ENGINES[engine], cache / "models") as client:
        print(f"{engine}: started in {time.monotonic() - started:.0f} s", flush=True)
        if not vectors_file(cache, engine).exists():
            vectors = await nonce_vectors(client, NONCES)
            vectors_file(cache, engine).parent.mkdir(parents=True, exist_ok=True)
            vectors_file(cache, engine).write_bytes(b"".join(vectors))
        numbers = range(part * answers, (part + 1) * answers)
        for prover in wanted:
            began = time.monotonic()
            claims = await make_claims(client, prover, cache / "models", numbers)
            write_claims(claims, claims_file(cache, prover.name, part))
            tokens = sum(len(claim.tokens) for claim in claims)
            print(f"  {prover.name}: {tokens} tokens in {time.monotonic() - began:.0f} s", flush=True)


async def run_auditor(cache: Path, auditor: str, part: int, provers: tuple[str, ...]) -> None:
    """Judge the claims of all provers with one engine."""
    files = {
        name: figures_file(cache, auditor, name, part)
        for name in provers or PROVERS
        if claims_file(cache, name, part).exists()
    }
    files = {name: file for name, file in files.items() if not file.exists()}
    if not files:
        return
    async with open_engine(ENGINES[auditor], cache / "models") as client:
        for name, file in files.items():
            began = time.monotonic()
            claims = read_claims(claims_file(cache, name, part))
            found = await _judge_all(client, claims)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps([_as_document(figures) for figures in found], separators=(",", ":")))
            means = _means(found)
            print(f"{auditor} judges {name}: {means} in {time.monotonic() - began:.0f} s", flush=True)


async def _judge_all(client: EngineClient, claims: list[Claim]) -> list[TokenFigures]:
    found: dict[int, TokenFigures] = {}
    limit = trio.CapacityLimiter(PREFILLS_AT_ONCE)

    async def one(number: int, claim: Claim) -> None:
        async with limit:
            whole = (*claim.prompt, *claim.tokens)
            prefills: list[Prefill] = await client.prefill(whole, len(claim.prompt), top=CANDIDATES, priority=0)
        found[number] = judge(claim, prefills)

    async with trio.open_nursery() as nursery:
        for number, claim in enumerate(claims):
            nursery.start_soon(one, number, claim)
    return [found[number] for number in range(len(claims))]


def _as_document(figures: TokenFigures) -> dict[str, list[int]]:
    names = ("margins", "distances", "surprises", "variances")
    return {name: list(getattr(figures, name)) for name in names}


def _means(found: list[TokenFigures]) -> str:
    tokens = sum(len(figures.margins) for figures in found)
    margin = sum(sum(figures.margins) for figures in found) / tokens / MICRO
    differ = sum(value > 0 for figures in found for value in figures.margins) / tokens
    apart = sum(sum(figures.distances) for figures in found) / tokens / MICRO
    surprise = sum(sum(figures.surprises) for figures in found) / tokens / MICRO
    return f"margin {margin:.5f}, differ {differ:.4f}, distance {apart:.5f}, surprise {surprise:+.4f}"


@click.command(help=__doc__)
@click.argument("step", type=click.Choice(["provers", "auditor"]))
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_CACHE)
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(ENGINES)), help="Only these engines.")
@click.option("--prover", "provers", multiple=True, type=click.Choice(list(PROVERS)), help="Only these provers.")
@click.option("--auditor", default=REFERENCE, type=click.Choice(list(ENGINES)))
@click.option("--part", default=0, show_default=True, help="Which answers: part 1 follows part 0.")
@click.option("--answers", default=64, show_default=True, help="Answers of 256 tokens for each prover and part.")
def main(
    step: str, cache: Path, engines: tuple[str, ...], provers: tuple[str, ...], auditor: str, part: int, answers: int
) -> None:
    """Command line."""
    if step == "auditor":
        trio.run(run_auditor, cache, auditor, part, provers)
        return
    for engine in engines or tuple(ENGINES):
        try:
            trio.run(run_provers, cache, engine, part, answers)
        except Exception as error:  # one engine that does not start must not end the others' measurement
            print(f"{engine}: not measured: {error!r}"[:3000], flush=True)


if __name__ == "__main__":
    main()
