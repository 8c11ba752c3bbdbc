"""Vectors of evidence, in audits and in samples: `python -m tests.vectors.evidence` writes evidence.json anew.

A changed line in evidence.json is a changed protocol: nodes of both versions would disagree on who is proven guilty.
"""

import json
import random
from dataclasses import replace
from pathlib import Path

from node.protocol.audits import (
    BETS,
    CONFIRMED_MICRO_BITS,
    EVIDENCE_MICRO_BITS_MAX,
    LIMIT_MICRO_BITS,
    NO_EVIDENCE,
    OVERTURNED_MICRO_BITS,
    accumulate_evidence,
    add_figures,
    counted_margin_micro,
    gains,
    judge_figures,
    log2_micro,
    proven_by,
)
from node.protocol.bands import Calibration, HonestBand, hardware_class
from node.protocol.calibration import band_of
from node.protocol.codec import to_value
from node.protocol.due_books import BooksOfResult, books_before, missing_books
from node.protocol.findings import (
    AuditFigures,
    CommittedBook,
    EarlierBook,
    MissingBook,
    ReceiptBook,
    SampleCount,
    SampleHistory,
    VoteCheck,
)
from node.protocol.history import extend, is_beyond, still_known
from node.protocol.identifiers import EpochNumber, Hash32, ModelId, TokenAmount
from node.protocol.judges import Judges
from node.protocol.outcomes import node_outcomes, weight_of
from node.protocol.records import EpochGroup, EpochResult, PocVote, VoteBundle
from node.protocol.tails import judge_tails, validator_outcomes
from node.protocol.validation import SampleRule
from node.protocol.verdicts import Verdict
from tests.builders import NODE, SOME_CID, TINY, account, bundle_of, commit, model
from tests.vectors.story import signed_receipt

PATH = Path(__file__).with_name("evidence.json")
NARROW = HonestBand("vllm", "", 1_000_000, 1_000, 0, 0, 0, 0, knows_winners=True)
USUAL = HonestBand("vllm", "", 1_000_000, 1_000, 500, 10_000, 21_000, 4_000, knows_winners=True)
WIDE = HonestBand("vllm", "", 1_000_000, 1_000, 30_000, 400_000, 60_000, 9_000)
"""Its distances lie beyond their cut: that test says nothing."""
BANDS = {"narrow": NARROW, "usual": USUAL, "wide": WIDE}
FIGURES = {
    "nothing": AuditFigures(0, 0, 0, 0, 0, 0, 0),
    "honest": AuditFigures(256, 2, 100_000, 256, 4_000_000, 30_000, 250_000_000),
    "one token": AuditFigures(1, 1, 50_000, 1, 50_000, -4_800_000, 1_000_000),
    "margins": AuditFigures(256, 60, 2_600_000, 0, 0, 0, 250_000_000),
    "distances": AuditFigures(256, 4, 150_000, 256, 12_000_000, 0, 250_000_000),
    "too likely": AuditFigures(256, 4, 150_000, 256, 4_000_000, 200_000_000, 200_000_000),
    "too unlikely": AuditFigures(256, 4, 150_000, 256, 4_000_000, -300_000_000, 200_000_000),
    "longest": AuditFigures(1 << 17, 1300, 1 << 25, 1 << 17, 1 << 31, 1 << 20, 1 << 37),
}
RULE = SampleRule(distance_max=1_000_000, mismatch_per_million=1000, reject_mismatches=3, sample_size=64)
HISTORY_KEY = (account(1), TINY)


def compute() -> dict[str, object]:
    """Return all vectors, as they stand in evidence.json."""
    return {
        "log2Micro": [
            {"numerator": str(numerator), "denominator": str(denominator), "bits": log2_micro(numerator, denominator)}
            for numerator, denominator in _ratios()
        ],
        "countedMargins": {
            str(margin): counted_margin_micro(margin) for margin in (0, 24_999, 25_000, 25_001, 74_999, 75_000, 10**6)
        },
        "bets": [test.value for test in BETS],
        "limits": {
            "proven": LIMIT_MICRO_BITS,
            "confirmed": CONFIRMED_MICRO_BITS,
            "overturned": OVERTURNED_MICRO_BITS,
            "most": EVIDENCE_MICRO_BITS_MAX,
        },
        "bands": {name: to_value(band) for name, band in BANDS.items()},
        "figures": {name: to_value(figures) for name, figures in FIGURES.items()},
        "gains": [
            {
                "band": band,
                "figures": name,
                "gains": list(gains(figures, BANDS[band])),
                "verdict": [judge_figures(figures, BANDS[band])[0].value, judge_figures(figures, BANDS[band])[1]],
            }
            for band in BANDS
            for name, figures in FIGURES.items()
        ],
        "accumulated": _accumulated(),
        "bandOf": _bands(),
        "tailsJudged": _tails(),
        "validators": _validators(),
        "weightOf": [
            {
                "count": count,
                "sampled": sampled,
                "mismatches": mismatches,
                "weight": weight_of(count, sampled, mismatches),
            }
            for count, sampled in ((1000, 64), (1001, 600), (10, 8), (10**6, 600))
            for mismatches in (0, 1, 3, sampled // 2, sampled)
        ],
        "thinPool": [_thin_pool(*weights) for weights in ((100, 50), (3000, 2000), (0, 5000))],
        "histories": _histories(),
        "dueBooks": _due_books(),
    }


def _ratios() -> list[tuple[int, int]]:
    source = random.Random(7)
    pairs = [(1, 1), (1, 2), (2, 1), (3, 2), (10**12 + 1, 10**12), (1024, 1), (2**200 + 1, 3), (10**6 + 500, 10**6)]
    return pairs + [(source.randrange(1, 2**90), source.randrange(1, 2**60)) for _ in range(24)]


def _accumulated() -> list[dict[str, object]]:
    """Evidence after one answer upon another, by the usual band; it never falls below nothing or grows for ever."""
    found = []
    for order in (("honest",) * 3, ("margins", "honest", "margins"), ("distances",) * 4, ("longest",) * 2):
        evidence, steps = NO_EVIDENCE, []
        for name in order:
            evidence = accumulate_evidence(evidence, gains(FIGURES[name], USUAL))
            proof = proven_by(evidence)
            steps.append({"figures": name, "evidence": list(evidence), "proves": proof.value if proof else ""})
        found.append({"steps": steps})
    together = add_figures(FIGURES["margins"], FIGURES["honest"])
    most = accumulate_evidence((EVIDENCE_MICRO_BITS_MAX - 1,) * len(BETS), (5,) * len(BETS))
    return [*found, {"added": to_value(together), "capped": list(most)}]


def _bands() -> list[dict[str, object]]:
    """The band of a node by what it registered: its class, its kind, any other hardware, of a record without a band for
    that the narrower of the widest and the default, and the default without a calibration."""
    h200 = replace(USUAL, hardware="nvidia h200", poc_distance_max=77)
    two = replace(USUAL, hardware="2x nvidia h200", poc_distance_max=2_000_000, poc_mismatch_per_million=1)
    calibration = Calibration(TINY, 1, (USUAL, h200))
    cases = [
        (known, version, hardware)
        for known in (calibration, Calibration(TINY, 1, (two, h200)), None)
        for version in (1, 2)
        for hardware in (
            "2x NVIDIA H200",
            "NVIDIA H200, 8 cores",
            "cpu",
            "",
            "1x AMD MI300X, 4x NVIDIA H200",
            "x" * 300,
        )
    ]
    return [
        {
            "isCalibrated": known is not None,
            "version": version,
            "hardware": hardware,
            "class": hardware_class(hardware),
            "band": to_value(band_of(known, replace(model(), version=version), hardware)),
        }
        for known, version, hardware in cases
    ]


def _tails() -> list[dict[str, object]]:
    cases = [(24, 0), (24, 1), (24, 3), (24, 12), (24, 24), (1, 1), (0, 0)]
    return [
        {
            "claimed": [3000 + place for place in range(count)],
            "recomputed": [3000 + place + (251 if place < differing else 250) for place in range(count)],
            "check": to_value(
                judge_tails(
                    account(1),
                    TINY,
                    [3000 + place for place in range(count)],
                    [3000 + place + (251 if place < differing else 250) for place in range(count)],
                )
            ),
        }
        for count, differing in cases
    ]


def _validators() -> dict[str, object]:
    """What checks come to, by weight: a majority, two thirds, a tie, nobody who knows, an abstention by accusers, one
    accuser alone, one who checks itself, and one whose model two others have, who weigh what they proved with it. All
    is said of each of the validator's models alike; accounts 1, 3 and 11 have a second one."""
    said = {
        1: {
            4: Verdict.VALID, 5: Verdict.INVALID, 6: Verdict.ABSTAIN, 7: Verdict.VALID, 8: Verdict.INVALID,
            10: Verdict.INVALID, 11: Verdict.INVALID,
        },
        2: {
            4: Verdict.INVALID, 5: Verdict.INVALID, 6: Verdict.ABSTAIN, 7: Verdict.INVALID, 8: Verdict.INVALID,
            9: Verdict.INVALID, 10: Verdict.INVALID, 11: Verdict.VALID,
        },
        3: {4: Verdict.VALID, 5: Verdict.VALID, 7: Verdict.VALID, 8: Verdict.ABSTAIN, 10: Verdict.VALID,
            11: Verdict.INVALID},
        7: {7: Verdict.VALID},
    }  # fmt: skip
    weights = {account(1): 10, account(2): 30, account(3): 20, account(7): 50, account(11): 5}
    judges = Judges(
        {
            TINY: weights | {account(number): 5 for number in (4, 5, 6, 8, 9, 10)},
            ModelId("rare"): {account(1): 8, account(3): 4, account(11): 5},
        }
    )
    reasons = {Verdict.VALID: "", Verdict.INVALID: "not-computed", Verdict.ABSTAIN: "nobody-could-check"}
    bundles = {
        account(checker): VoteBundle(
            EpochNumber(4),
            account(checker),
            (),
            checks=tuple(
                VoteCheck(account(checked), model_id, verdict, 24, 0, reasons[verdict])
                for checked, verdict in checks.items()
                for model_id in sorted(judges.models_to_check(account(checked)))
            ),
        )
        for checker, checks in said.items()
    }
    return {
        "weights": weights,
        "proven": {model_id: dict(proven) for model_id, proven in judges.proven.items()},
        "checks": {checker: [to_value(check) for check in bundle.checks] for checker, bundle in bundles.items()},
        "outcomes": [to_value(outcome) for outcome in validator_outcomes(bundles, weights, judges)],
    }


def _thin_pool(wide: int, thin: int) -> dict[str, object]:
    """Batches that all judge, and two of a model that only their owners have."""
    rare = ModelId("rare")
    counts = {1: wide, 2: wide, 3: wide, 11: thin, 12: thin // 2}
    commits = {
        (account(n), NODE): commit(n, count, epoch=4, model_id=rare if n > 10 else TINY).commit
        for n, count in counts.items()
        if count
    }
    weights = {account(n): 100 for n in counts}
    bundles = {
        account(n): bundle_of(
            n,
            *(
                PocVote(*key, Verdict.VALID, RULE.sampled(batch.count), (), "")
                for key, batch in commits.items()
                if key[0] != account(n) and (batch.model_id == rare) == (n > 10)
            ),
            epoch=4,
        )
        for n in counts
    }
    judges = Judges({TINY: {account(n): 100 for n in counts if n < 10}, rare: {account(n): 100 for n in (11, 12)}})
    found = node_outcomes(EpochNumber(4), commits, bundles, weights, dict.fromkeys(commits, RULE), judges, ())
    return {
        "weights": weights,
        "counts": {account(n): count for n, count in counts.items()},
        "outcomes": [to_value(outcome) for outcome in found.nodes],
    }


def _histories() -> list[dict[str, object]]:
    """Epoch after epoch of one participant: what is kept, and from when on the sum is beyond chance."""
    cases = {
        "one in 32": (64, 2),
        "one in 600": (600, 1),
        "one in 150": (600, 4),
        "honest": (600, 0),
        "large": (20_000, 30),
    }
    found = []
    for name, (sampled, mismatches) in cases.items():
        history: SampleHistory | None = None
        beyond = []
        for epoch in range(45):
            history = extend(history, HISTORY_KEY, SampleCount(EpochNumber(epoch), sampled, mismatches, 1000))
            if is_beyond(history):
                beyond.append(epoch)
        assert history is not None
        later = still_known({HISTORY_KEY: history}, EpochNumber(70))
        found.append(
            {
                "case": name,
                "sampled": sampled,
                "mismatches": mismatches,
                "beyondFromEpochs": beyond[:3],
                "kept": to_value(history),
                "keptInEpoch70": [to_value(known) for known in later.values()],
            }
        )
    return found


def _due_books() -> dict[str, object]:
    """Which books had to have a receipt, by what a result says of its executor's; and what it says of the missing."""
    executor = account(8)
    own = ReceiptBook(3, 30, Hash32(b"\x01" * 32), SOME_CID)
    before = EarlierBook(executor, EpochNumber(5), ReceiptBook(2, 20, Hash32(b"\x02" * 32), SOME_CID))
    group = EpochGroup(EpochNumber(10), (), ())
    plain = EpochResult(EpochNumber(9), group, (), TokenAmount(0))
    gone = MissingBook(executor, EpochNumber(0), EpochNumber(8))
    results = {
        "both": replace(plain, books=(CommittedBook(executor, own),), books_before=(before,)),
        "own": replace(plain, books=(CommittedBook(executor, own),)),
        "missing twice": replace(plain, books_before=(before,), books_missing=(gone,)),
        "nothing": plain,
    }
    due = []
    for name, result in results.items():
        books = BooksOfResult(result)
        for epoch in range(11):
            receipt = signed_receipt(8, 1, epoch).receipt
            found = books.due(receipt)
            due.append(
                {
                    "result": name,
                    "epoch": epoch,
                    "isLate": books.is_late(receipt),
                    "books": None
                    if found is None
                    else [b.root.hex() if b else None for b in (found.earlier, found.later)],
                }
            )
    weights = {account(n): 10 for n in (1, 8)}
    missing = missing_books(results["missing twice"], {account(1)}, weights, {account(1), executor})
    first = missing_books(results["both"], {account(1)}, weights, {account(1), executor})
    return {
        "executor": executor,
        "due": due,
        "missingAgain": [to_value(book) for book in missing],
        "missingFirst": [to_value(book) for book in first],
        "before": [
            [book.executor, book.epoch, book.book.root.hex()]
            for epoch in (10, 13, 14)
            for book in books_before(EpochNumber(epoch), results["missing twice"])
        ],
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(compute(), indent=1) + "\n")
