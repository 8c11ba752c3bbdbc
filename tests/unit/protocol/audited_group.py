"""An executor in a group of nine, its book, and what members say of its answers: for tests of audits."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from node.protocol.appeals import NARROWLY_PROVEN
from node.protocol.audit_majorities import WITHHELD
from node.protocol.audit_outcomes import audit_outcomes
from node.protocol.audit_sampling import SEATS, AuditorLots, AuditSeeds, auditors_of, draws_of
from node.protocol.audit_votes import NO_DIGEST, REJUDGED, audit_order
from node.protocol.audits import NO_FIGURES
from node.protocol.calibration import HonestBand
from node.protocol.findings import AuditFigures, AuditOutcome, AuditVote, CommittedBook, ReceiptBook
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, NodeId, TokenAmount
from node.protocol.records import EpochGroup, EpochResult, VoteBundle
from node.protocol.verdicts import Verdict
from tests.builders import NODE, SOME_CID, TINY, account
from tests.unit.protocol.test_receipt_books import BIG, group_of

SEED = Hash32(b"\x07" * 31 + b"\x3c")
"""Five auditors, with a seat each, are drawn for each of the first three draws from the executor's book."""
SEEDS = AuditSeeds(SEED, Hash32(b"\x08" * 32))
BAND = HonestBand("vllm", "", 0, 1_000, 10_000, 10_000, 33_000, 4_000)
EXECUTOR = account(1)
MEMBERS = range(1, 10)
JUDGES = range(2, 10)
"""All but the executor."""
GROUP = group_of(*((number, 10, (TINY,)) for number in MEMBERS))
WEIGHTS = {account(number): 10 for number in MEMBERS}
BOOK = ReceiptBook(1000, 100_000, Hash32(b"\x01" * 32), SOME_CID)
DRAWS = 12
"""Ten of tokens and two of rows."""
GOOD = AuditFigures(100, 0, 0, 0, 0, 0, 100_000_000)
BAD = AuditFigures(100, 60, 50_000_000, 0, 0, 0, 100_000_000)
MILD = AuditFigures(200, 5, 250_000, 0, 0, 0, 100_000_000)
"""2.5 % of tokens differ: no answer proves it by itself, nor do those of one epoch."""
NOBODY: Mapping[Address, AuditVote | AuditFigures] = {}


def band_of(_account: Address, _node: NodeId, _model: ModelId) -> HonestBand:
    return BAND


def previous(*audits: AuditOutcome, books: tuple[CommittedBook, ...] | None = None) -> EpochResult:
    own = (CommittedBook(EXECUTOR, BOOK),) if books is None else books
    return EpochResult(EpochNumber(0), GROUP, (), TokenAmount(0), audits=audits, books=own)


def digest_of(draw: int) -> Hash32:
    return Hash32(b"\xaa" + draw.to_bytes(31, signed=True))


def judged(draw: int, figures: AuditFigures, digest: Hash32 | None = None) -> AuditVote:
    verdict = Verdict.VALID if figures.mismatches == 0 else Verdict.INVALID
    reason = "" if verdict is Verdict.VALID else "audit-tokens"
    return AuditVote(EXECUTOR, draw, NODE, TINY, digest or digest_of(draw), verdict, figures, reason)


def missing(draw: int, reason: str = WITHHELD) -> AuditVote:
    return AuditVote(EXECUTOR, draw, NodeId(""), ModelId(""), NO_DIGEST, Verdict.ABSTAIN, NO_FIGURES, reason)


def bundles_of(votes: Mapping[Address, list[AuditVote]]) -> dict[Address, VoteBundle]:
    return {
        validator: VoteBundle(EpochNumber(1), validator, (), tuple(sorted(cast, key=audit_order)))
        for validator, cast in votes.items()
    }


def minority_of(draw: int, seed: Hash32 = SEED) -> list[Address]:
    """Return auditors of a draw who have two of its five seats together, or fewer."""
    left, found = SEATS // 2, []
    for auditor, seats in sorted(AuditorLots(seed, GROUP).seats(EXECUTOR, draw).items(), key=lambda drawn: drawn[1]):
        if seats <= left:
            found.append(auditor)
            left -= seats
    return found


def votes_on_draws(said: Callable[[Address, int], AuditVote]) -> dict[Address, list[AuditVote]]:
    """What is said of each draw from the book by each auditor whom it was drawn for."""
    votes: dict[Address, list[AuditVote]] = {}
    for draw in range(draws_of(BOOK)):
        for auditor in auditors_of(SEED, EXECUTOR, draw, GROUP):
            votes.setdefault(auditor, []).append(said(auditor, draw))
    return votes


def by_auditors(
    figures: AuditFigures, cartel: Mapping[Address, AuditVote | AuditFigures] = NOBODY
) -> dict[Address, VoteBundle]:
    """Bundles in which every drawn auditor finds `figures`, and those of the cartel what they like."""

    def said_by(auditor: Address, draw: int) -> AuditVote:
        said = cartel.get(auditor, figures)
        return judged(draw, said) if isinstance(said, AuditFigures) else replace(said, draw=draw)

    return bundles_of(votes_on_draws(said_by))


def outcome(bundles: Mapping[Address, VoteBundle], *before: AuditOutcome) -> AuditOutcome:
    books = () if before else None
    (found,) = audit_outcomes(previous(*before, books=books), SEEDS, bundles, WEIGHTS, band_of)
    return found


def judged_again(accused: AuditOutcome, figures: Mapping[int, AuditFigures]) -> dict[Address, VoteBundle]:
    return bundles_of(
        {
            account(number): [judged(REJUDGED, said, digest) for digest in accused.accused]
            for number, said in figures.items()
        }
    )


def is_fraud(outcome: AuditOutcome) -> bool:
    """Whether it costs the executor more than this model's pay."""
    return outcome.fate is Verdict.INVALID and outcome.reason != NARROWLY_PROVEN


def with_judges(*numbers: int) -> EpochGroup:
    """A group in which only these members have the executor's model beside itself."""
    return group_of((1, 10, (TINY,)), *((n, 10, (TINY if n in numbers else BIG,)) for n in range(2, 10)))
