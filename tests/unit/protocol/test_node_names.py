"""Names of nodes are free to make up: what is found out adds up all the same, and results do not grow with them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest

from node.protocol.audit_outcomes import (
    NO_BOOK,
    OUTCOMES_REMEMBERED_MAX,
    audit_outcomes,
    audit_outcomes_in_slices,
)
from node.protocol.audit_sampling import auditors_of, draws_of
from node.protocol.audits import BETS, strongest_evidence
from node.protocol.chain_state import ChainState
from node.protocol.codec import to_bytes
from node.protocol.due_books import BOOKS_REMEMBERED_EPOCHS
from node.protocol.findings import (
    AuditFigures,
    AuditOutcome,
    AuditVote,
    CommittedBook,
    EarlierBook,
    MissingBook,
    ReceiptBook,
)
from node.protocol.identifiers import Address, BlockNumber, EpochNumber, Hash32, NodeId, PeerId
from node.protocol.node_names import UNNAMED, HasNode, known_nodes
from node.protocol.pricing import receipt_digest
from node.protocol.records import (
    EpochResult,
    MLNodeRegistration,
    Omission,
    ParticipantRecord,
    SignedReceipt,
    VoteBundle,
)
from node.protocol.signatures import sign
from node.protocol.verdicts import Verdict
from tests.builders import NODE, SOME_CID, TINY, account, key_of
from tests.unit.protocol.test_audit_evidence import evidence_of
from tests.unit.protocol.test_audit_outcomes import (
    BAD,
    BOOK,
    EXECUTOR,
    GOOD,
    GROUP,
    MILD,
    SEED,
    SEEDS,
    WEIGHTS,
    band_of,
    bundles_of,
    judged,
    judged_again,
    missing,
    previous,
)

LARGE_BOOK = ReceiptBook(8000, 16_000, Hash32(b"\x01" * 32), SOME_CID)
TWO_TOKENS = AuditFigures(2, 1, 50_000, 0, 0, 0, 2_000_000)
"""One of two is not the rule's choice: a little evidence, and no proof."""
LUCK = tuple(1_000_000 + bet for bet in range(len(BETS)))
OUTSIDER = account(77)


def anything(_executor: Address, _node: NodeId) -> bool:
    return True


def epoch_of(
    audits: tuple[AuditOutcome, ...],
    figures: AuditFigures,
    name: Callable[[int], str],
    *,
    book: ReceiptBook = BOOK,
    has_node: HasNode | None = None,
) -> tuple[AuditOutcome, ...]:
    """One epoch in which every auditor reads the answers of EXECUTOR; the receipt of a draw names the node `name`."""
    votes: dict[Address, list[AuditVote]] = {}
    for draw in range(draws_of(book)):
        for auditor in auditors_of(SEED, EXECUTOR, draw, GROUP):
            votes.setdefault(auditor, []).append(replace(judged(draw, figures), node_id=NodeId(name(draw))))
    before = replace(previous(books=(CommittedBook(EXECUTOR, book),)), audits=audits)
    return audit_outcomes(before, SEEDS, bundles_of(votes), WEIGHTS, band_of, has_node)


def quiet_epoch(result: EpochResult, has_node: HasNode | None = None) -> tuple[AuditOutcome, ...]:
    """An epoch in which nobody audits anything."""
    return audit_outcomes(result, SEEDS, {}, WEIGHTS, band_of, has_node)


def remembering(*evidence: tuple[str, tuple[int, ...]], executor: Address = EXECUTOR) -> tuple[AuditOutcome, ...]:
    """Outcomes that are there for their evidence alone, by node."""
    (known,) = epoch_of((), MILD, lambda _: NODE)
    known = replace(known, executor=executor, accused=(), fate=Verdict.VALID, reason="", evidence=())
    return tuple(replace(known, node_id=NodeId(name), evidence=bits) for name, bits in evidence)


def long_name(epoch: int, draw: int) -> str:
    return f"{epoch}-{draw}".ljust(32, "x")


def epochs_to_an_accusation(name: Callable[[int, int], str]) -> int | None:
    audits: tuple[AuditOutcome, ...] = ()
    for epoch in range(20):
        audits = epoch_of(audits, MILD, partial(name, epoch))
        if any(audit.accused for audit in audits):
            return epoch
    return None


def test_a_new_name_for_each_answer_is_accused_as_soon_as_one_name_for_all() -> None:
    named = epochs_to_an_accusation(lambda _epoch, _draw: NODE)
    made_up = epochs_to_an_accusation(lambda epoch, draw: f"n{epoch}-{draw}")
    assert named is not None
    assert made_up == named


def test_answers_under_made_up_names_are_convicted_together() -> None:
    (accused,) = epoch_of((), BAD, lambda draw: f"made-up-{draw}")
    assert (accused.node_id, len(accused.accused)) == (UNNAMED, draws_of(BOOK))
    again = judged_again(accused, dict.fromkeys(range(2, 10), BAD))
    (proven,) = audit_outcomes(previous(accused, books=()), SEEDS, again, WEIGHTS, band_of)
    assert proven.fate is Verdict.INVALID


def test_results_do_not_grow_with_the_names_in_receipts() -> None:
    audits: tuple[AuditOutcome, ...] = ()
    sizes = []
    for epoch in range(10):
        audits = epoch_of(audits, TWO_TOKENS, partial(long_name, epoch), book=LARGE_BOOK)
        sizes.append(len(audits))
        assert sum(len(to_bytes(audit)) for audit in audits) < 4096
    assert sizes == [1] * 10


def receipt_under(name: str) -> SignedReceipt:
    receipt = replace(
        evidence_of().signed.receipt, executor=EXECUTOR, payer=account(3), node_id=NodeId(name), asking=None
    )
    digest = receipt_digest(receipt)
    return SignedReceipt(receipt, sign(key_of(1), digest), sign(key_of(3), digest))


def test_what_is_challenged_or_left_out_under_made_up_names_is_one_node_s() -> None:
    receipts = sorted(
        (receipt_under(f"made-up-{number}") for number in range(4)), key=lambda s: receipt_digest(s.receipt)
    )
    bundle = VoteBundle(
        EpochNumber(6), account(3), (),
        omissions=tuple(Omission(signed, None, None) for signed in receipts), challenges=tuple(receipts),
    )  # fmt: skip
    missing_book = MissingBook(EXECUTOR, EpochNumber(0), EpochNumber(5))
    result = replace(previous(books=()), epoch=EpochNumber(5), books_missing=(missing_book,))
    (found,) = audit_outcomes(result, SEEDS, {account(3): bundle}, WEIGHTS, band_of)
    assert (found.node_id, found.withheld, found.reason, len(found.challenged)) == (UNNAMED, 4, NO_BOOK, 4)


def test_what_is_withheld_under_made_up_names_is_one_node_s() -> None:
    votes: dict[Address, list[AuditVote]] = {}
    for draw in range(draws_of(BOOK)):
        for auditor in auditors_of(SEED, EXECUTOR, draw, GROUP):
            cast = replace(missing(draw), node_id=NodeId(f"made-up-{draw}"), model_id=TINY)
            votes.setdefault(auditor, []).append(cast)
    (found,) = audit_outcomes(previous(), SEEDS, bundles_of(votes), WEIGHTS, band_of)
    assert (found.node_id, found.withheld) == (UNNAMED, draws_of(BOOK))


def test_a_node_of_the_group_keeps_its_own_evidence_beside_made_up_names() -> None:
    audits = epoch_of((), TWO_TOKENS, lambda draw: NODE if draw % 2 else f"made-up-{draw}")
    assert [audit.node_id for audit in audits] == [UNNAMED, NODE]


def test_a_node_that_was_registered_after_the_group_was_frozen_is_itself() -> None:
    assert [audit.node_id for audit in epoch_of((), GOOD, lambda _: "young")] == [UNNAMED]
    state = ChainState()
    young = MLNodeRegistration(NodeId("young"), (TINY,), "hardware")
    state.participants[EXECUTOR] = ParticipantRecord(EXECUTOR, PeerId("peer"), (young,), BlockNumber(1))
    for states in ((state,), (ChainState(), state), (state, ChainState())):
        found = epoch_of((), GOOD, lambda _: "young", has_node=known_nodes(GROUP, *states))
        assert [(audit.node_id, audit.fate) for audit in found] == [("young", Verdict.VALID)]
    assert not known_nodes(None, state)(OUTSIDER, NodeId("young"))
    assert known_nodes(GROUP)(EXECUTOR, NODE)
    assert not known_nodes(GROUP, state)(EXECUTOR, UNNAMED)


def test_evidence_against_a_node_that_is_gone_goes_to_the_one_without_a_name_and_is_not_summed() -> None:
    stronger = tuple(2 * bits for bits in LUCK)
    audits = remembering((UNNAMED, LUCK), ("old", stronger), ("older", LUCK), (NODE, LUCK))
    found = quiet_epoch(replace(previous(books=()), audits=audits))
    assert {audit.node_id: audit.evidence for audit in found} == {UNNAMED: stronger, NODE: LUCK}
    assert quiet_epoch(replace(previous(books=()), audits=found)) == found


def test_renaming_a_node_for_ever_neither_hides_evidence_nor_adds_up_luck() -> None:
    audits: tuple[AuditOutcome, ...] = ()
    for epoch in range(12):
        audits = (*audits, *remembering((f"name-{epoch}", LUCK)))
        audits = quiet_epoch(replace(previous(books=()), audits=audits))
    assert [(audit.node_id, audit.evidence) for audit in audits] == [(UNNAMED, LUCK)]


def test_an_accusation_is_judged_under_the_name_it_was_made_under() -> None:
    (accused,) = epoch_of((), BAD, lambda _: "renamed", has_node=anything)
    for figures, fate in ((BAD, Verdict.INVALID), (GOOD, Verdict.VALID)):
        again = judged_again(accused, dict.fromkeys(range(2, 10), figures))
        found = audit_outcomes(previous(accused, books=()), SEEDS, again, WEIGHTS, band_of)
        assert [audit.node_id for audit in found] in ([NodeId("renamed")], [])
        assert all(audit.fate is fate for audit in found)
    # Nobody judged it: what it rests on is remembered, and goes to the node without a name an epoch later.
    (waiting,) = quiet_epoch(previous(accused, books=()))
    assert (waiting.node_id, waiting.evidence) == ("renamed", accused.evidence)
    (left,) = quiet_epoch(previous(waiting, books=()))
    assert (left.node_id, left.evidence) == (UNNAMED, accused.evidence)


@pytest.mark.parametrize("has_book", [True, False])
def test_who_is_no_member_and_has_no_book_is_forgotten(has_book: bool) -> None:
    audits = remembering((NODE, LUCK), executor=OUTSIDER)
    age = BOOKS_REMEMBERED_EPOCHS - 1
    books = (EarlierBook(OUTSIDER, EpochNumber(0), BOOK),) if has_book else ()
    result = replace(previous(books=()), epoch=EpochNumber(age), audits=audits, books_before=books)
    found = quiet_epoch(result)
    assert [audit.executor for audit in found] == ([OUTSIDER] if has_book else [])
    if has_book:
        assert quiet_epoch(replace(result, audits=found, books_before=())) == ()


def test_of_one_executor_the_nodes_with_most_evidence_are_remembered() -> None:
    count = OUTCOMES_REMEMBERED_MAX + 6
    audits = remembering(*((f"n{number:03}", (*LUCK[:-1], 10**7 + number)) for number in range(count)))
    found = quiet_epoch(replace(previous(books=()), audits=audits), anything)
    assert [audit.node_id for audit in found] == [f"n{number:03}" for number in range(6, count)]


@pytest.mark.parametrize(
    ("one", "other", "both"), [((), (), ()), (LUCK, (), LUCK), ((), LUCK, LUCK), ((1, 5), (4, 2), (4, 5))]
)
def test_the_stronger_evidence_of_each_bet_stays(one: Sequence[int], other: Sequence[int], both: Sequence[int]) -> None:
    assert strongest_evidence(tuple(one), tuple(other)) == tuple(both)


def test_what_is_remembered_is_gone_through_in_slices() -> None:
    """Of eight executors as much as may be: after it one outcome of each is left, which is no slice by itself."""
    gone = [
        outcome
        for number in range(1, 9)
        for outcome in remembering(*((f"gone-{n}", LUCK) for n in range(64)), executor=account(number))
    ]
    result = replace(previous(books=()), audits=tuple(gone))
    slices = list(audit_outcomes_in_slices(result, SEEDS, {}, WEIGHTS, band_of))
    assert len(slices) >= 2
