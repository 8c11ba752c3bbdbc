"""The tables of docs/soundness.md, from the committed measurements: python -m benchmarks.soundness.report

With --collect DIRECTORY the committed files are made anew from what `measure` left there.
"""

import json
import math
from pathlib import Path

import click

from benchmarks.soundness.data import (
    DIRECTORY,
    Windows,
    as_rows,
    provers_of,
    read_nonces,
    read_windows,
)
from benchmarks.soundness.detection import (
    bits_per_thousand_tokens,
    detect,
    false_verdict_bound,
    measured_band,
    tokens_to_proof,
)
from benchmarks.soundness.judging import TokenFigures
from benchmarks.soundness.nonce_fakes import fakes
from benchmarks.soundness.variants import ENGINES, HONEST_ENGINES, PROVERS, REFERENCE
from node.cli.render import print_table
from node.protocol.calibration import HonestBand
from node.protocol.nonces import VECTOR_BYTES, split_vectors, squared_distance

LENGTHS = (64, 128, 256)
FILES_MAX = 64


def collect(cache: Path, directory: Path = DIRECTORY) -> None:
    """Write the committed files."""
    directory.mkdir(exist_ok=True)
    for folder in sorted((cache / "figures").iterdir())[:FILES_MAX]:
        found: dict[str, list[list[list[int]]]] = {}
        for prover in PROVERS:
            answers: list[TokenFigures] = []
            for file in sorted(folder.glob(f"{prover}-[0-9].json")):
                answers += [
                    TokenFigures(**{name: tuple(values) for name, values in entry.items()})
                    for entry in json.loads(file.read_text())
                ]
            if answers:
                found[prover] = as_rows(answers)
        text = json.dumps(found, separators=(",", ":")).replace('"],', '"],\n').replace(']]],"', ']]],\n"')
        (directory / f"answers-{folder.name}.json").write_text(text + "\n")
    nonces = {}
    reference = _vectors(cache, REFERENCE)
    for engine in ENGINES:
        if (cache / "nonces" / f"{engine}.bin").exists() and engine != REFERENCE:
            pairs = zip(reference, _vectors(cache, engine), strict=True)
            nonces[engine] = sorted(squared_distance(one, other) for one, other in pairs)
    nonces |= fakes(reference)
    (directory / "nonces.json").write_text(json.dumps(nonces, separators=(",", ":")).replace('],"', '],\n"') + "\n")


def _vectors(cache: Path, engine: str) -> list[bytes]:
    data = (cache / "nonces" / f"{engine}.bin").read_bytes()
    return split_vectors(data, len(data) // VECTOR_BYTES)


def honest_band(auditor: str = REFERENCE) -> HonestBand:
    """Return the band of all honest machines measured by an auditor."""
    nonces = read_nonces()
    honest = [name for name in HONEST_ENGINES if name in provers_of(auditor) and name != auditor]
    return measured_band((read_windows(auditor, name), nonces.get(name, [0])) for name in honest)


def percent(share: float) -> str:
    """Return a share for a table."""
    return f"{share:.1%}" if share < 0.9995 else "100%"


def print_answers(auditor: str, band: HonestBand) -> None:
    """Print how often answers are proven wrong, by prover and length."""
    rows = []
    for prover in provers_of(auditor):
        windows = read_windows(auditor, prover)
        for forged in (False, True):
            if forged and PROVERS[prover].is_honest:
                continue
            found = {length: detect(windows.of(length, forged=forged), band) for length in LENGTHS}
            pace, test = bits_per_thousand_tokens(windows.of(LENGTHS[0], forged=forged), band)
            needed = tokens_to_proof(pace)
            rows.append(
                (
                    prover,
                    "forged" if forged else "as they are",
                    *(f"{percent(found[n].share)} (≥ {percent(found[n].share_at_least)})" for n in LENGTHS),
                    f"{pace:+.1f}",
                    "never" if math.isinf(needed) else f"{needed:,.0f}",
                    test.value,
                )
            )
    headings = ("PROVER", "LOGPROBS", *(f"{n} TOKENS" for n in LENGTHS), "BITS/1000", "TOKENS TO PROOF", "BEST TEST")
    print_table(headings, rows, empty="")


def print_means(auditor: str) -> None:
    """Print means per token."""
    rows = []
    for prover in provers_of(auditor):
        stretches = read_windows(auditor, prover).of(256)
        tokens = sum(figures.tokens for figures in stretches)
        rows.append(
            (
                prover,
                f"{sum(f.mismatches for f in stretches) / tokens:.3%}",
                f"{sum(f.margin_micro for f in stretches) / tokens / 1e6:.5f}",
                f"{sum(f.distance_micro for f in stretches) / tokens / 1e6:.5f}",
                f"{sum(f.surprise_micro for f in stretches) / tokens / 1e6:+.4f}",
            )
        )
    print_table(("PROVER", "TOKENS THAT DIFFER", "MARGIN", "DISTANCE", "SURPRISE"), rows, empty="")


def print_nonces(band: HonestBand) -> None:
    """Print distances of nonces, and how many are told from honest ones."""
    rows = []
    for name, distances in read_nonces().items():
        count = len(distances)
        beyond = sum(distance > band.poc_distance_max for distance in distances)
        middle, least, most = distances[count // 2], distances[0], distances[-1]
        rows.append((name, f"{least:,}", f"{middle:,}", f"{most:,}", percent(beyond / count)))
    print_table(("WHO", "LEAST", "MEDIAN", "LARGEST", "BEYOND THE BAND"), rows, empty="")


def print_honest(auditor: str, band: HonestBand) -> None:
    """Print how near honest answers come to being accused."""
    rows = []
    for name in (prover for prover in provers_of(auditor) if PROVERS[prover].is_honest):
        windows: Windows = read_windows(auditor, name)
        bounds = (f"{false_verdict_bound(windows.of(length), band):.1e}" for length in LENGTHS)
        rows.append((name, str(len(windows.answers)), *bounds))
    print_table(("HONEST", "ANSWERS", *(f"{length} TOKENS" for length in LENGTHS)), rows, empty="")


@click.command(help=__doc__)
@click.option("--collect", "cache", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--auditor", default=REFERENCE)
def main(cache: Path | None, auditor: str) -> None:
    """Command line."""
    if cache is not None:
        collect(cache)
    band = honest_band(auditor)
    click.echo(f"The band of honest machines, from `quern calibrate`'s rule: {band}\n")
    print_nonces(band)
    click.echo("\nMeans per token:")
    print_means(auditor)
    click.echo("\nAnswers proven wrong by one audit, and evidence that adds up:")
    print_answers(auditor, band)
    click.echo("\nChance of a false verdict on one audit, Chernoff's bound fitted to the answers measured:")
    print_honest(auditor, band)


if __name__ == "__main__":
    main()
