"""The tables of docs/soundness.md, from the committed measurements: python -m benchmarks.soundness.report

With --collect DIRECTORY the committed files are made anew from what `measure` left there.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.cheats import rejected_within
from benchmarks.soundness.data import (
    DIRECTORY,
    answers_file,
    as_lines,
    as_rows,
    provers_of,
    read_nonces,
    read_windows,
    write_rows,
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
AUDITORS_MAX = 8


@dataclass(frozen=True, slots=True)
class Table:
    """What is printed, and stands in the documentation."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> list[str]:
        """Return its lines in Markdown."""
        head, *rows = (f"| {' | '.join(line)} |".replace("%", " %") for line in (self.headings, *self.rows))
        return [head, "|---" * len(self.headings) + "|", *rows]


def collect(cache: Path, directory: Path = DIRECTORY) -> None:
    """Write the committed files."""
    directory.mkdir(exist_ok=True)
    for folder in sorted((cache / "figures").iterdir())[:AUDITORS_MAX]:
        rows = {prover: as_rows(list(_figures(folder, prover))) for prover in PROVERS}
        write_rows({prover: found for prover, found in rows.items() if found}, answers_file(folder.name, directory))
    nonces: dict[str, list[int]] = {}
    reference = _vectors(cache, REFERENCE)
    for engine in ENGINES:
        if engine != REFERENCE and (cache / "nonces" / f"{engine}.bin").exists():
            pairs = zip(reference, _vectors(cache, engine), strict=True)
            nonces[engine] = sorted(squared_distance(one, other) for one, other in pairs)
    (directory / "nonces.json").write_text(as_lines(nonces | fakes(reference)))


def _figures(folder: Path, prover: str) -> Iterator[TokenFigures]:
    files = folder.glob(f"{prover}-*.json")
    for file in sorted(files, key=lambda file: int(file.stem.removeprefix(f"{prover}-"))):
        for entry in json.loads(file.read_text()):
            yield TokenFigures(**{name: tuple(values) for name, values in entry.items()})


def _vectors(cache: Path, engine: str) -> list[bytes]:
    data = (cache / "nonces" / f"{engine}.bin").read_bytes()
    return split_vectors(data, len(data) // VECTOR_BYTES)


def honest_band(auditor: str = REFERENCE, *, winners: bool = True) -> HonestBand:
    """Return the band of all honest machines that an auditor judged, by the rule of `quern calibrate`."""
    nonces = read_nonces()
    honest = [name for name in HONEST_ENGINES if name in provers_of(auditor) and name != auditor]
    # The reference's nonces are those that all others are compared with; for another auditor they stay theirs.
    found = ((read_windows(auditor, name, winners=winners), nonces.get(name, [0])) for name in honest)
    return measured_band(found, winners=winners)


def means(auditor: str) -> Table:
    """Means per token."""
    rows = []
    for prover in provers_of(auditor):
        stretches = read_windows(auditor, prover).of(LENGTHS[0])
        tokens = sum(figures.tokens for figures in stretches)
        rows.append(
            (
                prover,
                f"{sum(f.mismatches for f in stretches) / tokens:.2%}",
                f"{sum(f.margin_micro for f in stretches) / tokens / 1e6:.6f}",
                f"{sum(f.distance_micro for f in stretches) / tokens / 1e6:.4f}",
                f"{sum(f.surprise_micro for f in stretches) / tokens / 1e6:+.4f}",
            )
        )
    return Table("Means per token", ("prover", "differ", "margin", "distance", "surprise"), tuple(rows))


def caught(auditor: str, band: HonestBand) -> Table:
    """How often answers are proven wrong by one audit, and how fast evidence adds up."""
    rows = []
    for prover in provers_of(auditor):
        windows = read_windows(auditor, prover)
        for forged in (False, True):
            if forged and PROVERS[prover].is_honest:
                continue
            found = [detect(windows.of(length, forged=forged), band) for length in LENGTHS]
            pace, test = bits_per_thousand_tokens(windows.of(LENGTHS[0], forged=forged), band)
            needed = tokens_to_proof(pace)
            rows.append(
                (
                    prover,
                    "forged" if forged else "as they are",
                    *(f"{percent(each.share)} (≥ {percent(each.share_at_least)})" for each in found),
                    "never" if math.isinf(needed) else f"{needed:,.0f}",
                    test.value.removeprefix("audit-") if pace > 0 else "–",
                )
            )
    headings = ("prover", "log-probabilities", *(f"in {n} tokens" for n in LENGTHS), "tokens to proof", "best test")
    return Table("Answers proven wrong by one audit, and evidence that adds up", headings, tuple(rows))


def told_of_winners(auditor: str) -> Table:
    """What it gives to be told of the rule's choice at every place, instead of the likeliest tokens only.

    Log-probabilities are forged: what they prove does not depend on it.
    """
    rows = []
    bands = honest_band(auditor, winners=False), honest_band(auditor)
    for prover in provers_of(auditor):
        row = [prover]
        for winners, band in zip((False, True), bands, strict=True):
            stretches = read_windows(auditor, prover, winners=winners).of(LENGTHS[0], forged=True)
            tokens = sum(figures.tokens for figures in stretches)
            pace, _ = bits_per_thousand_tokens(stretches, band)
            needed = tokens_to_proof(pace)
            row += (
                f"{sum(f.mismatches for f in stretches) / tokens:.2%}",
                f"{sum(f.margin_micro for f in stretches) / tokens / 1e6:.6f}",
                "never" if math.isinf(needed) else f"{needed:,.0f}",
            )
        rows.append(tuple(row))
    headings = (
        *("prover", "differ", "margin", "tokens to proof, forged"),
        *(f"{name}, told of the rule's choice" for name in ("differ", "margin", "tokens")),
    )
    return Table("What an auditor knows by the likeliest 50, and with the rule's choice", headings, tuple(rows))


def distances(band: HonestBand) -> Table:
    """Distances of nonces from the reference's, and how many are told from honest ones."""
    rows = []
    for name, found in read_nonces().items():
        beyond = sum(distance > band.poc_distance_max for distance in found) / len(found)
        caught_in = (percent(rejected_within(epochs, beyond)) for epochs in (1, 3))
        middle = found[len(found) // 2]
        rows.append((name, f"{found[0]:,}", f"{middle:,}", f"{found[-1]:,}", percent(beyond), *caught_in))
    headings = ("who", "least", "median", "largest", "beyond the band", "rejected in one epoch", "in three")
    return Table("Squared distances of nonces", headings, tuple(rows))


def false_verdicts(auditor: str, band: HonestBand) -> Table:
    """How near honest answers come to being accused."""
    rows = []
    for name in (prover for prover in provers_of(auditor) if PROVERS[prover].is_honest):
        windows = read_windows(auditor, name)
        bounds = (f"{false_verdict_bound(windows.of(length), band):.0e}" for length in LENGTHS)
        rows.append((name, str(len(windows.answers)), *bounds))
    headings = ("honest", "answers", *(f"{length} tokens" for length in LENGTHS))
    return Table("Chance of a false verdict on one audit, fitted", headings, tuple(rows))


def percent(share: float) -> str:
    """Return a share for a table."""
    return "100%" if share == 1.0 else f"{share:.1%}"


def tables(auditor: str, band: HonestBand) -> list[Table]:
    """Return all that one auditor found."""
    return [means(auditor), caught(auditor, band), told_of_winners(auditor), false_verdicts(auditor, band)]


@click.command(help=__doc__)
@click.option("--collect", "cache", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--auditor", default=REFERENCE, show_default=True)
@click.option("--markdown", is_flag=True)
def main(cache: Path | None, auditor: str, markdown: bool) -> None:
    """Command line."""
    if cache is not None:
        collect(cache)
    band = honest_band(auditor)
    click.echo(f"Band of the honest machines: {band}")
    for table in [distances(band), *tables(auditor, band)]:
        click.echo(f"\n{table.title}:")
        if markdown:
            click.echo("\n".join(table.markdown()))
        else:
            print_table(table.headings, table.rows, empty="")


if __name__ == "__main__":
    main()
