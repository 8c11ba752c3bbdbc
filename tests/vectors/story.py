"""Four epochs of a small network in which everything happens that a result has a word for; see formation.py.

Nothing of it is random: block hashes follow from a salt, and a salt is taken with which the draws fall so that
the last result has something in every field (formation.py).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from node.protocol.asking import booked_under
from node.protocol.audit_sampling import auditors_of, drawn_rows, judges_of
from node.protocol.audit_votes import NO_DIGEST, REJUDGED, audit_order
from node.protocol.audits import CONFIRMED_MICRO_BITS, NO_FIGURES, OVERTURNED_MICRO_BITS, add_figures, gains
from node.protocol.bands import Calibration, HonestBand
from node.protocol.calibration import calibration_bytes
from node.protocol.chain_state import ChainState
from node.protocol.events import (
    ChainEvent,
    CollateralDeposited,
    CollateralUnbonding,
    EventBody,
    MinCollateralSet,
    MLNodeSet,
    ModelCalibrated,
    ModelRecorded,
    ParticipantRegistered,
    PocCommitted,
    RewardClaimed,
    VotesCommitted,
    WorkCoinsAdded,
)
from node.protocol.findings import (
    AuditFigures,
    AuditOutcome,
    AuditVote,
    Observations,
    ReceiptBook,
    ServedTokens,
    Sighting,
    SpeedMeasure,
    VoteCheck,
)
from node.protocol.identifiers import (
    ZERO_HASH,
    Address,
    BlockNumber,
    EpochNumber,
    Hash32,
    ModelId,
    NodeId,
    RequestId,
    TokenAmount,
)
from node.protocol.judges import judges_for
from node.protocol.nonces import draw_sample
from node.protocol.omissions import SearchedBook
from node.protocol.pricing import receipt_digest, tokens_commitment
from node.protocol.receipt_books import BookRow, make_book, order_rows
from node.protocol.receipts import draw_commitment
from node.protocol.records import (
    Asking,
    EpochResult,
    MLNodeRegistration,
    Omission,
    PocCommit,
    PocVote,
    Receipt,
    SignedReceipt,
    VoteBundle,
)
from node.protocol.sampling import SamplingParameters
from node.protocol.signatures import sign
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import checkers_of
from node.protocol.validation import SampleRule, judge
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from tests.builders import NODE, PARAMETERS, SOME_CID, TINY, account, group_set, key_of, model, peer, unasked_row

BIG, RARE, LATE = ModelId("big"), ModelId("rare"), ModelId("late")
NODES: Mapping[int, tuple[ModelId, ...]] = {
    1: (TINY, BIG),
    2: (TINY,),
    3: (TINY,),
    4: (TINY, BIG),
    5: (TINY,),
    6: (TINY, RARE, BIG),
    7: (TINY, RARE),
    8: (TINY,),
    9: (TINY,),
    10: (TINY,),
    11: (TINY,),
}
"""Of each participant, what its nodes serve, in the order added."""
FOUNDERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
POOR = 9
"""Asks some of its collateral back in the last epoch: then its batch does not count."""
DIFFERING, HIDING, FAKING, ABSENT, BUSY, SLOW = 3, 2, 4, 5, 8, 11
"""Some of its nonces differ in every epoch but the first, never enough for one; its bundles are missing from the second
on; in the last epoch its batches are of fakes; is not there in the last; leaves things undone for want of time;
answers slowly."""
CHEAT, SUSPECT, NEWLY_ACCUSED = 7, 1, 6
"""Audits of the third epoch accuse the first two: the whole group confirms the one and finds too little against the
other; those of the last epoch accuse the third."""
GATEWAYS = (1, 6, 8, 10)
"""Who measured the others."""
WITHHOLDING, OMITTING, CHALLENGER = 10, 8, 3
"""Hands over no answers; leaves a receipt out; challenges one. The first two hand their batches to one member alone in
the last epoch."""
LAST = EpochNumber(3)
BAND = HonestBand("vllm", "", 1_000_000, 1_000, 500, 10_000, 21_000, 4_000, knows_winners=True)
PARAMETERS_OF_STORY = replace(PARAMETERS, poc_sample_size=64, initial_subsidy=TokenAmount(9 * 10**20))
HONEST = AuditFigures(256, 1, 60_000, 256, 3_000_000, 50_000, 200_000_000)
FALSE = AuditFigures(256, 120, 9_000_000, 256, 11_000_000, -40_000_000, 200_000_000)
NONCES = 1000


def node_id_of(place: int) -> NodeId:
    """The name of a participant's node by its place."""
    return NodeId(f"node-{place + 1}")


@dataclass(slots=True)
class Chain:
    """Events in their blocks; blocks are known by a salt and their number."""

    salt: int
    events: list[ChainEvent] = field(default_factory=list)

    def add(self, block: int, *bodies: EventBody) -> None:
        """Append events to a block, which must not be before the last one."""
        for body in bodies:
            index = sum(event.block_number == block for event in self.events)
            self.events.append(ChainEvent(BlockNumber(block), self.block_hash(block), index, body))

    def block_hash(self, block: int) -> Hash32:
        """SHA-256 of `block/<salt>/<number>`."""
        return Hash32(hashlib.sha256(f"block/{self.salt}/{block}".encode()).digest())

    def state_at(self, block: int) -> ChainState:
        """The chain up to and with a block."""
        return fold(self.events, block)


def fold(events: list[ChainEvent], block: int) -> ChainState:
    """Return what the events up to and with a block come to."""
    state = ChainState()
    for event in events:
        if event.block_number <= block:
            state.apply(event)
    return state


def begin_of(epoch: int, stage: Stage) -> int:
    """The first block of a stage."""
    return first_block_of(epoch, stage, PARAMETERS_OF_STORY)


def found(chain: Chain) -> None:
    """The network begins: three models, one calibrated, and everybody registered."""
    calibration = Calibration(TINY, 1, (BAND,))
    chain.add(0, ModelRecorded(model()), ModelRecorded(model(BIG)), ModelRecorded(model(RARE, throughput_per_nonce=30)))
    chain.add(0, ModelCalibrated(TINY, 1, calibration_bytes(calibration)), MinCollateralSet(TokenAmount(10)))
    for number, models in NODES.items():
        registrations = (MLNodeRegistration(node_id_of(place), (m,), "cpu") for place, m in enumerate(models))
        chain.add(0, ParticipantRegistered(account(number), peer(number), consented=True))
        chain.add(0, *(MLNodeSet(account(number), node) for node in registrations))
        chain.add(0, CollateralDeposited(account(number), TokenAmount(10)))
    chain.add(0, group_set(0, dict.fromkeys(FOUNDERS, 100)))


def mine(chain: Chain, epoch: EpochNumber, selected: frozenset[NodeKey]) -> None:
    """Everybody who is there and was not drawn to serve commits; a model comes too late for this epoch's batches."""
    begin = begin_of(epoch, Stage.GENERATE)
    for number, models in NODES.items():
        for place, model_id in enumerate(models):
            key = (account(number), node_id_of(place))
            if key in selected or (number == ABSENT and epoch == LAST):
                continue
            count = NONCES + 10 * number + place
            if model_id == RARE and epoch == LAST:
                count *= 3  # more than who few can judge keeps and its judges back
            root = Hash32(hashlib.sha256(f"{epoch}/{number}/{place}".encode()).digest())
            chain.add(begin + 5, PocCommitted(PocCommit(epoch, *key, model_id, count, root, SOME_CID)))
    if epoch == LAST:
        leaving = CollateralUnbonding(account(POOR), TokenAmount(9), TokenAmount(1), 1_800_000_000)
        chain.add(begin_of(epoch, Stage.EXCHANGE), leaving)
        chain.add(begin_of(epoch, Stage.EXCHANGE), ModelRecorded(model(LATE)))
        chain.add(begin_of(epoch, Stage.EXCHANGE), WorkCoinsAdded(account(90), TokenAmount(10**18 + 3)))
    if epoch == 1:
        chain.add(begin_of(epoch, Stage.EXCHANGE), RewardClaimed(account(1), TokenAmount(10**18)))


def commit_bundles(chain: Chain, epoch: EpochNumber, bundles: Mapping[Address, VoteBundle]) -> None:
    """Put it on the chain that there are bundles."""
    block = begin_of(epoch, Stage.VOTE_EXCHANGE)
    chain.add(block, *(VotesCommitted(epoch, validator, SOME_CID) for validator in bundles))


class Scene:
    """What members commit in one epoch."""

    def __init__(
        self,
        chain: Chain,
        epoch: EpochNumber,
        previous: EpochResult | None,
        rules: Mapping[NodeKey, SampleRule],
        selected: frozenset[NodeKey],
    ) -> None:
        self._chain = chain
        self._epoch = epoch
        self._previous = previous
        self._rules = rules
        self._selected = selected
        state = chain.state_at(begin_of(epoch, Stage.FORM) - 1)
        self._commits = state.poc_commits[epoch]
        self._weights = dict(state.group_weights(epoch))
        self._judges = judges_for(epoch, self._weights, state, None if previous is None else previous.group)
        self._voted_before = state.vote_bundles.get(EpochNumber(epoch - 1), {}) if epoch else {}
        self._audits = self._cast_audits()

    def bundles(self) -> dict[Address, VoteBundle]:
        """Those of all who commit one, ascending."""
        numbers = sorted(self._voters(), key=lambda number: account(number).lower())
        return {account(number): self._bundle(number) for number in numbers}

    def _voters(self) -> list[int]:
        hidden = {HIDING} if self._epoch else set[int]()
        absent = {ABSENT} if self._epoch == LAST else set[int]()
        return [n for n in NODES if self._weights.get(account(n), 0) > 0 and n not in hidden | absent]

    def _bundle(self, number: int) -> VoteBundle:
        votes = [self._vote(number, commit) for key, commit in self._commits.items() if key[0] != account(number)]
        return VoteBundle(
            self._epoch,
            account(number),
            tuple(sorted(votes, key=lambda vote: (vote.participant.lower(), vote.node_id))),
            audits=tuple(sorted(self._audits.get(account(number), ()), key=audit_order)),
            receipts=make_book(rows_of(number, self._epoch), SOME_CID),
            observations=self._observed(number),
            omissions=self._omissions(number),
            challenges=self._challenges(number),
            evidence_cid=SOME_CID,
            checks=self._checks(number),
        )

    def _vote(self, number: int, commit: PocCommit) -> PocVote:
        key, prover = (commit.participant, commit.node_id), _number(commit.participant)
        if self._epoch == LAST and number == BUSY and prover in (SUSPECT, NEWLY_ACCUSED):
            return PocVote(*key, Verdict.ABSTAIN, 0, (), "no-time")
        if self._epoch == LAST and number != SUSPECT and prover in (WITHHOLDING, BUSY):
            return PocVote(*key, Verdict.ABSTAIN, 0, (), "no-data")
        if commit.model_id not in NODES[number]:
            return PocVote(*key, Verdict.ABSTAIN, 0, (), "no-model")
        seed = self._chain.block_hash(begin_of(self._epoch, Stage.VALIDATE))
        rule = self._rules[key]
        sampled = draw_sample(seed, *key, commit.count, rule.sample_size)
        mismatches: tuple[int, ...] = ()
        if prover == DIFFERING and self._epoch:
            mismatches = sampled[: 4 if self._epoch == LAST else 2]
        elif prover == FAKING and self._epoch == LAST:
            mismatches = sampled[:-1]
        elif prover in (SLOW, NEWLY_ACCUSED, CHEAT) and number != SUSPECT:
            mismatches = sampled[3:4] if self._epoch == LAST else ()
        verdict = judge(len(sampled), len(mismatches), rule)
        reason = "" if verdict is Verdict.VALID else "mismatches"
        unrelated = len(mismatches) if prover == FAKING else 0
        return PocVote(*key, verdict, len(sampled), mismatches, reason, unrelated)

    def _observed(self, number: int) -> Observations:
        """Nothing but in the last epoch: only its result follows from it."""
        if self._epoch != LAST:
            return Observations()
        order = sorted(NODES, key=lambda other: account(other).lower())
        sightings = tuple(
            Sighting(account(other), 0 if other == ABSENT else 1000 - 7 * other) for other in order if other != number
        )
        measures = tuple(
            SpeedMeasure(account(other), TINY, 9, 900 if other == SLOW else 100 + other, 20_000)
            for other in order
            if number in GATEWAYS and other != number
        )
        served = tuple(ServedTokens(model_id, (100, 150 * number)) for model_id in sorted(set(NODES[number])))
        return Observations(sightings, measures, served, wants_scaling=True)

    def _checks(self, number: int) -> tuple[VoteCheck, ...]:
        checks = []
        for validator in sorted(self._voted_before, key=str.lower):
            seed = self._chain.block_hash(begin_of(self._epoch - 1, Stage.FORM))
            checked = _number(validator)
            for model_id in self._judges.models_to_check(validator):
                able = self._judges.able_to_check(validator, model_id, self._weights)
                if account(number) not in checkers_of(seed, validator, able):
                    continue
                if checked == SLOW:
                    checks.append(VoteCheck(validator, model_id, Verdict.INVALID, 24, 20, "not-computed"))
                elif checked == BUSY:
                    checks.append(VoteCheck(validator, model_id, Verdict.ABSTAIN, 0, 0, "nobody-could-check"))
                else:
                    checks.append(VoteCheck(validator, model_id, Verdict.VALID, 24, 0, ""))
        return tuple(checks)

    def _cast_audits(self) -> dict[Address, list[AuditVote]]:
        cast: dict[Address, list[AuditVote]] = {}
        if self._previous is None:
            return cast
        seed, group = self._chain.block_hash(begin_of(self._previous.epoch, Stage.FORM)), self._previous.group
        for committed in self._previous.books:
            executor = _number(committed.executor)
            rows = rows_of(executor, self._previous.epoch)
            drawn = drawn_rows(seed, committed.executor, committed.book, rows, group) if committed.book.count else {}
            for draw, row in drawn.items():
                for auditor in auditors_of(seed, committed.executor, draw, group):
                    vote = self._audit(executor, draw, row.digest, auditor)
                    cast.setdefault(auditor, []).append(vote)
        for outcome in self._previous.audits:
            for judge_account in sorted(judges_of(outcome, group)):
                votes = (self._again(outcome, digest) for digest in sorted({*outcome.accused, *outcome.challenged}))
                cast.setdefault(judge_account, []).extend(votes)
        return cast

    def _audit(self, executor: int, draw: int, digest: Hash32, auditor: Address) -> AuditVote:
        names = (account(executor), draw, NODE, TINY)
        if executor == WITHHOLDING:
            return AuditVote(*names, NO_DIGEST, Verdict.ABSTAIN, NO_FIGURES, "withheld")
        if _number(auditor) == BUSY:
            return AuditVote(*names, NO_DIGEST, Verdict.ABSTAIN, NO_FIGURES, "no-time")
        accused = {CHEAT, SUSPECT} if self._epoch == LAST - 1 else {NEWLY_ACCUSED} if self._epoch == LAST else set()
        if executor in accused:
            return AuditVote(*names, digest, Verdict.INVALID, FALSE, "tokens")
        figures = replace(HONEST, margin_micro=HONEST.margin_micro + 9_000 * _number(auditor))
        return AuditVote(*names, digest, Verdict.VALID, figures, "")

    def _again(self, outcome: AuditOutcome, digest: Hash32) -> AuditVote:
        names = (outcome.executor, REJUDGED, NODE, outcome.model_id)
        figures = FALSE
        if _number(outcome.executor) == SUSPECT:
            figures = suspicious(len(outcome.accused))
        return AuditVote(*names, digest, Verdict.VALID, figures, "")

    def _omissions(self, number: int) -> tuple[Omission, ...]:
        """A receipt of who has no book any more, and one that is in neither book that had to have it."""
        if self._epoch != LAST or number != SUSPECT:
            return ()
        bookless, omitted = signed_receipt(HIDING, SUSPECT, 1), signed_receipt(OMITTING, SUSPECT, 1)
        under = booked_under(omitted.receipt)
        gaps = [SearchedBook(rows_of(OMITTING, EpochNumber(epoch))).gap(under) for epoch in (1, 2)]
        proofs = [Omission(bookless, None, None), Omission(omitted, gaps[0], gaps[1])]
        return tuple(sorted(proofs, key=lambda proof: receipt_digest(proof.signed.receipt)))

    def _challenges(self, number: int) -> tuple[SignedReceipt, ...]:
        return (signed_receipt(BUSY, CHALLENGER, 2),) if self._epoch == LAST and number == CHALLENGER else ()


def suspicious(answers: int) -> AuditFigures:
    """Figures that, of so many answers together, neither confirm an accusation nor overturn it."""
    for mismatches in range(HONEST.tokens):
        one = together = replace(HONEST, mismatches=mismatches)
        for _ in range(answers - 1):
            together = add_figures(together, one)
        if OVERTURNED_MICRO_BITS < max(gains(together, BAND)) < CONFIRMED_MICRO_BITS:
            return one
    raise ValueError("no figures between the two")


def rows_of(number: int, epoch: int) -> tuple[BookRow, ...]:
    """The rows of a book: a few answers of different lengths."""
    rows = [unasked_row(Hash32(hashlib.sha256(f"{epoch}/{number}/{n}".encode()).digest()), 50 * n) for n in range(4)]
    return order_rows(rows)


def book_of(number: int, epoch: int) -> ReceiptBook:
    """The book of these rows."""
    return make_book(rows_of(number, epoch), SOME_CID)


def signed_receipt(executor: int, payer: int, epoch: int) -> SignedReceipt:
    """A receipt that both sides signed, of an answer that the payer asked for in `epoch`."""
    receipt = Receipt(
        request_id=RequestId(hashlib.sha256(f"{executor}/{payer}/{epoch}".encode()).digest()),
        epoch=EpochNumber(epoch),
        model_id=TINY,
        model_cid=SOME_CID,
        payer=account(payer),
        executor=account(executor),
        node_id=NODE,
        prompt_tokens=3,
        output_tokens=4,
        prompt_commitment=tokens_commitment([1, 2, 3]),
        output_commitment=tokens_commitment([4, 5, 6, 70_000]),
        draw_commitment=draw_commitment(SamplingParameters(temperature_milli=700), 5, (), ""),
        is_verifiable=True,
        seeded_by_user=True,
        at=1_700_000_000,
        price=TokenAmount(98),
        asking=Asking(EpochNumber(epoch), 64, ZERO_HASH),
    )
    digest = receipt_digest(receipt)
    return SignedReceipt(receipt, sign(key_of(executor), digest), sign(key_of(payer), digest))


def _number(participant: Address) -> int:
    return next(number for number in NODES if account(number) == participant)
