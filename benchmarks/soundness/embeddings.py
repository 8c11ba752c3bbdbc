"""How far vectors of other machines and of cheats lie from the reference's: python -m benchmarks.soundness.embeddings

The models of models.py serve as embedding models (`--convert embed`: the last token's hidden state, of unit length).
`measure` has every engine make the vectors of nonces and of texts of all lengths; `chosen` looks for texts at which two
honest machines differ most, as a payer would that wants to frame one; `report` prints the tables of docs/soundness.md
from the committed data.
"""

import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import trio

from benchmarks.soundness.claims import EPOCH_SEED, NODE, NONCES, PARTICIPANT
from benchmarks.soundness.engines import open_engine
from benchmarks.soundness.measure import DEFAULT_CACHE
from benchmarks.soundness.models import PROMPTS_FILE, VOCABULARY_SIZE
from benchmarks.soundness.variants import ENGINES, HONEST_ENGINES, REFERENCE
from node.calibration.bands import band_of_measurement
from node.calibration.measurement import Measurement
from node.cli.render import print_table
from node.engine.client import EngineClient
from node.protocol.audits import LIMIT_MICRO_BITS, gains
from node.protocol.bands import HonestBand
from node.protocol.nonces import nonce_prompt
from node.protocol.sketches import SKETCH_BYTES, sketch_distance, sketch_of, split_sketches
from node.protocol.vector_audits import FAR_TIMES, figures_of, vector_band

POOLING = ("--runner", "pooling", "--convert", "embed")
DATA = Path(__file__).parent / "data" / "embeddings.json"
NOT_STARTED = "tensor-parallel-2"
PROMPTS_READ = 512
TEXTS = 1024
TEXT_TOKENS_MAX = 384
AT_ONCE = 64
ROUNDS = 40
CANDIDATES = 256
KEPT = 16
CHOSEN_TOKENS = 8
SEED = 20_261_122
SAMPLES = 2_000
"""Answers that are put together from measured vectors, for each number of vectors."""
COUNTS = (1, 3, 5, 10, 16, 48, 200, 1_000)


def nonces() -> list[tuple[int, ...]]:
    """Return the prompts of the nonces that all soundness measurements use."""
    return [nonce_prompt(EPOCH_SEED, PARTICIPANT, NODE, nonce, VOCABULARY_SIZE) for nonce in range(NONCES)]


def texts(models: Path) -> list[tuple[int, ...]]:
    """Return pieces of real text of 1 to TEXT_TOKENS_MAX tokens, as many short ones as long ones by their logarithm."""
    source = random.Random(SEED)
    prompts = json.loads((models / PROMPTS_FILE).read_text())[:PROMPTS_READ]
    whole = [token for prompt in prompts for token in prompt]
    found = []
    for _ in range(TEXTS):
        length = round(TEXT_TOKENS_MAX ** source.random())
        start = source.randrange(len(whole) - length)
        found.append(tuple(whole[start : start + length]))
    return found


async def sketched(client: EngineClient, inputs: Sequence[Sequence[int]]) -> list[bytes]:
    """Return the sketches of an engine's vectors."""
    sketches = []
    for start in range(0, len(inputs), AT_ONCE):
        sketches += [sketch_of(vector) for vector in await client.embed(inputs[start : start + AT_ONCE], priority=0)]
    return sketches


def sketches_file(cache: Path, engine: str) -> Path:
    """Where an engine's sketches are: of all nonces, then of all texts."""
    return cache / "embeddings" / f"{engine}.bin"


async def measure(cache: Path, engine: str) -> None:
    """Have one engine make all vectors."""
    variant = replace(ENGINES[engine], arguments=(*ENGINES[engine].arguments, *POOLING))
    async with open_engine(variant, cache / "models") as client:
        sketches = await sketched(client, [*nonces(), *texts(cache / "models")])
    sketches_file(cache, engine).parent.mkdir(parents=True, exist_ok=True)
    sketches_file(cache, engine).write_bytes(b"".join(sketches))
    print(f"{engine}: {len(sketches)} vectors", flush=True)


async def choose(cache: Path, one: str, other: str) -> None:
    """Look for inputs at which two engines differ most, by changing those that differ most so far."""
    source = random.Random(SEED)
    variants = [replace(ENGINES[name], arguments=(*ENGINES[name].arguments, *POOLING)) for name in (one, other)]
    async with (
        open_engine(variants[0], cache / "models") as first,
        open_engine(variants[1], cache / "models") as second,
    ):
        inputs = [tuple(source.randrange(VOCABULARY_SIZE) for _ in range(CHOSEN_TOKENS)) for _ in range(CANDIDATES)]
        known: dict[tuple[int, ...], int] = {}
        for number in range(ROUNDS):
            fresh = [entry for entry in dict.fromkeys(inputs) if entry not in known]
            pairs = zip(await sketched(first, fresh), await sketched(second, fresh), strict=True)
            known |= {entry: sketch_distance(*pair) for entry, pair in zip(fresh, pairs, strict=True)}
            best = sorted(known, key=lambda entry: -known[entry])[:KEPT]
            if number % 5 == 0 or number == ROUNDS - 1:
                print(f"round {number}: {[known[entry] for entry in best[:5]]} of {len(known)}", flush=True)
            inputs = [changed(source.choice(best), source) for _ in range(CANDIDATES)]
    found = json.loads(DATA.read_text()) if DATA.exists() else {}
    found["chosen"] = {"inputs": len(known), "distances": [known[entry] for entry in best]}
    DATA.write_text(json.dumps(found, separators=(",", ":")) + "\n")


def changed(entry: tuple[int, ...], source: random.Random) -> tuple[int, ...]:
    """Return an input with a token or two changed, added or left out."""
    ids = list(entry)
    for _ in range(source.randint(1, 2)):
        place, way = source.randrange(len(ids)), source.random()
        if way < 0.2 and len(ids) > 1:
            del ids[place]
        elif way < 0.4:
            ids.insert(place, source.randrange(VOCABULARY_SIZE))
        else:
            ids[place] = source.randrange(VOCABULARY_SIZE)
    return tuple(ids)


def keep(cache: Path) -> None:
    """Write the distances of all engines from the reference's as committed data."""
    found = json.loads(DATA.read_text()) if DATA.exists() else {}
    reference = split_sketches(sketches_file(cache, REFERENCE).read_bytes())
    for engine in ENGINES:
        if engine == REFERENCE or not sketches_file(cache, engine).exists():
            continue
        own = split_sketches(sketches_file(cache, engine).read_bytes())
        distances = [sketch_distance(*pair) for pair in zip(own, reference, strict=True)]
        found[engine] = {"nonces": distances[:NONCES], "texts": distances[NONCES:]}
    shifted = zip(reference[NONCES:], reference[NONCES + 1 :], strict=False)
    found["another text's"] = {"nonces": [], "texts": [sketch_distance(*pair) for pair in shifted]}
    junk = random.Random(SEED).randbytes
    made_up = [junk(SKETCH_BYTES - 4) + sketch[-4:] for sketch in reference[NONCES:]]
    found["made up"] = {
        "nonces": [],
        "texts": [sketch_distance(*pair) for pair in zip(made_up, reference[NONCES:], strict=True)],
    }
    DATA.write_text(json.dumps(found, separators=(",", ":")) + "\n")


def band_of(found: dict[str, dict[str, list[int]]]) -> HonestBand:
    """Return the band that `quern calibrate` makes of the honest machines' nonces."""
    distances = [distance for name in HONEST_ENGINES if name in found for distance in found[name]["nonces"]]
    return vector_band(band_of_measurement(Measurement("", "", tuple(distances), (), knows_winners=False), "vllm"))


def vectors_to_proof(distances: Sequence[int], band: HonestBand) -> float | None:
    """Return after how many vectors their sum proves them on average; None if it never does."""
    most = max(gains(figures_of(distances, band.poc_distance_max), band))
    return None if most <= 0 else LIMIT_MICRO_BITS * len(distances) / most


def proven_percent(distances: Sequence[int], count: int, band: HonestBand) -> float:
    """Return how many of a hundred audits of `count` vectors, drawn from those measured, prove by themselves."""
    source = random.Random(SEED)
    proven = sum(
        max(gains(figures_of(source.choices(distances, k=count), band.poc_distance_max), band)) >= LIMIT_MICRO_BITS
        for _ in range(SAMPLES)
    )
    return 100 * proven / SAMPLES


def report() -> None:
    """Print the tables of docs/soundness.md."""
    found = json.loads(DATA.read_text())
    chosen = found.pop("chosen", None)
    band = band_of(found)
    print(f"poc_distance_max {band.poc_distance_max}, p0 {band.poc_mismatch_per_million} in a million\n")
    rows = []
    for name, distances in found.items():
        of_texts, line = sorted(distances["texts"]), FAR_TIMES * band.poc_distance_max
        to_proof = vectors_to_proof(of_texts, band)
        of_nonces = distances["nonces"]
        rows.append([
            name,
            f"{statistics.median(of_nonces):,.0f}" if of_nonces else "–",
            f"{max(of_nonces):,}" if of_nonces else "–",
            f"{of_texts[0]:,}", f"{statistics.median(of_texts):,.0f}", f"{of_texts[-1]:,}",
            f"{sum(distance >= line for distance in of_texts) / len(of_texts):.1%}",
            "never" if to_proof is None else f"{to_proof:,.0f}",
            *(f"{proven_percent(of_texts, count, band):.1f}" for count in COUNTS),
        ])  # fmt: skip
    heads = ["who", "nonces: median", "largest", "texts: least", "median", "largest", "far", "to proof"]
    print_table([*heads, *map(str, COUNTS)], rows, empty="nothing was measured")
    if chosen is not None:
        print(f"\nchosen among {chosen['inputs']:,}: {chosen['distances']}")
        print(f"all of these to proof: {vectors_to_proof(chosen['distances'], band)}")


@click.command(help=__doc__)
@click.argument("step", type=click.Choice(["measure", "chosen", "keep", "report"]))
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_CACHE)
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(ENGINES)), help="Only these engines.")
def main(step: str, cache: Path, engines: tuple[str, ...]) -> None:
    """Command line."""
    if step == "measure":
        for engine in engines or tuple(name for name in ENGINES if name != NOT_STARTED):
            trio.run(measure, cache, engine)
    elif step == "chosen":
        trio.run(choose, cache, REFERENCE, "fp32")
    elif step == "keep":
        keep(cache)
    else:
        report()


if __name__ == "__main__":
    main()
