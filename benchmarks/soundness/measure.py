"""Runs provers and auditors on real vLLM, one engine at a time: python -m benchmarks.soundness.measure --help

First every prover answers and computes nonces; then an auditor's engine reads all their answers. What they found is
kept under the cache directory, so that a run goes on where the last one stopped.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

import click
import trio

from benchmarks.soundness.claims import (
    NONCES,
    make_claims,
    nonce_vectors,
    read_claims,
    write_claims,
)
from benchmarks.soundness.engines import open_engine
from benchmarks.soundness.judging import judge
from benchmarks.soundness.readings import open_reader
from benchmarks.soundness.variants import ENGINES, PART_ANSWERS, PROVERS, REFERENCE

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


async def run_provers(cache: Path, engine: str, parts: int | None) -> None:
    """Have all provers of one engine answer, and compute its nonces."""
    wanted = [
        (prover, part)
        for prover in PROVERS.values()
        if prover.engine == engine
        for part in range(prover.parts if parts is None else parts)
        if not claims_file(cache, prover.name, part).exists()
    ]
    if not wanted and vectors_file(cache, engine).exists():
        return
    started = time.monotonic()
    async with open_engine(ENGINES[engine], cache / "models") as client:
        print(f"{engine}: started in {time.monotonic() - started:.0f} s", flush=True)
        if not vectors_file(cache, engine).exists():
            vectors = await nonce_vectors(client, NONCES)
            vectors_file(cache, engine).parent.mkdir(parents=True, exist_ok=True)
            vectors_file(cache, engine).write_bytes(b"".join(vectors))
        for prover, part in wanted:
            began = time.monotonic()
            numbers = range(part * PART_ANSWERS, (part + 1) * PART_ANSWERS)
            claims = await make_claims(client, prover, cache / "models", numbers)
            write_claims(claims, claims_file(cache, prover.name, part))
            tokens = sum(len(claim.tokens) for claim in claims)
            print(f"  {prover.name}, part {part}: {tokens} tokens in {time.monotonic() - began:.0f} s", flush=True)


def run_auditor(cache: Path, auditor: str, provers: tuple[str, ...], parts: int | None) -> None:
    """Judge the claims of all provers with one engine."""
    wanted = [
        (name, part)
        for name in provers or PROVERS
        for part in range(PROVERS[name].parts if parts is None else parts)
        if claims_file(cache, name, part).exists() and not figures_file(cache, auditor, name, part).exists()
    ]
    if not wanted:
        return
    with open_reader(ENGINES[auditor], cache / "models") as reader:
        files = [claims_file(cache, name, part) for name, part in wanted]
        for (name, part), readings in zip(wanted, reader.read(files), strict=True):
            began = time.monotonic()
            claims = read_claims(claims_file(cache, name, part))
            found = [judge(claim, read) for claim, read in zip(claims, readings, strict=True)]
            file = figures_file(cache, auditor, name, part)
            file.parent.mkdir(parents=True, exist_ok=True)
            begun = file.with_suffix(".begun")
            begun.write_text(json.dumps([asdict(figures) for figures in found], separators=(",", ":")))
            begun.rename(file)  # a run that is cut off leaves no half of it
            print(f"{auditor} judges {name}, part {part}: {time.monotonic() - began:.0f} s", flush=True)


@click.command(help=__doc__)
@click.argument("step", type=click.Choice(["provers", "auditor"]))
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_CACHE)
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(ENGINES)), help="Only these engines.")
@click.option("--prover", "provers", multiple=True, type=click.Choice(list(PROVERS)), help="Only these provers.")
@click.option("--auditor", default=REFERENCE, type=click.Choice(list(ENGINES)))
@click.option("--parts", type=click.IntRange(1), help=f"Of {PART_ANSWERS} answers by each prover; else variants.py's.")
def main(
    step: str, cache: Path, engines: tuple[str, ...], provers: tuple[str, ...], auditor: str, parts: int | None
) -> None:
    """Command line."""
    if step == "auditor":
        run_auditor(cache, auditor, provers, parts)
        return
    for engine in engines or tuple(ENGINES):
        try:
            trio.run(run_provers, cache, engine, parts)
        except Exception as error:  # one engine that does not start must not end the others' measurement
            print(f"{engine}: not measured: {error!r}"[:3000], flush=True)


if __name__ == "__main__":
    main()
