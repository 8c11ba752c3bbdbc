"""Vectors of selection, throughput, score and pay: `python -m tests.vectors.rewards` writes rewards.json anew.

A changed line in rewards.json is a changed protocol: nodes of both versions would disagree.
"""

import json
from pathlib import Path

from node.protocol.codec import to_value
from node.protocol.events import ModelRecorded
from node.protocol.findings import (
    AuditOutcome,
    NodeFate,
    NodeOutcome,
    Observations,
    ReceiptBook,
    ServedTokens,
    Sighting,
    SpeedMeasure,
)
from node.protocol.identifiers import ZERO_HASH, Address, EpochNumber, Hash32, NodeId, TokenAmount
from node.protocol.lots import lot
from node.protocol.participation import Duties
from node.protocol.penalties import penalties
from node.protocol.records import EpochGroup, GroupMember, MLNodeSnapshot, VoteBundle
from node.protocol.rewards import get_settle_amounts
from node.protocol.scores import participant_scores
from node.protocol.throughput import (
    real_throughput_vectors,
    set_expected_throughput,
    set_real_throughput,
    validate_throughput_performance,
)
from node.protocol.timeslots import select_poc_slots, with_poc_slots
from node.protocol.verdicts import Verdict
from tests.builders import NODE, PARAMETERS, SOME_CID, TINY, account, model, peer, registered, state_of

PATH = Path(__file__).with_name("rewards.json")
EPOCH = EpochNumber(3)
SECOND_NODE = NodeId("node-2")
WEIGHTS = {1: (300,), 2: (100, 50), 3: (200, 200), 4: (150,), 5: (25,)}
"""Of each participant's nodes, in the order added."""


def compute() -> dict[str, object]:
    """Return all vectors, as they stand in rewards.json."""
    return {
        "group": to_value(_group()),
        "lots": [
            {
                "seed": bytes([n] * 32).hex(),
                "identity": "node",
                "weight": w,
                "lot": str(lot(bytes([n] * 32), b"node", w)),
            }
            for n, w in ((1, 1), (2, 1000), (255, 2**64 - 1))
        ],
        "selections": [_selection(Hash32(bytes([number]) * 32)) for number in range(6)],
        "throughput": _throughput(),
        "score": _score(),
        "settle": _settle(),
    }


def _group() -> EpochGroup:
    members = (
        GroupMember(
            account(number),
            peer(number),
            sum(weights),
            tuple(
                MLNodeSnapshot(node_id, TINY, weight, 10 * weight, (True, False))
                for node_id, weight in zip((NODE, SECOND_NODE), weights, strict=False)
            ),
        )
        for number, weights in WEIGHTS.items()
    )
    return EpochGroup(EPOCH, tuple(sorted(members, key=lambda member: member.participant.lower())), (model(),))


def _outcomes(*preserved: int) -> list[NodeOutcome]:
    return [
        NodeOutcome(
            member.participant,
            node.node_id,
            TINY,
            NodeFate.PRESERVED if member.participant in {account(n) for n in preserved} else NodeFate.ACCEPTED,
            node.poc_weight,
            8,
            0,
            node.poc_weight,
            "",
        )
        for member in _group().members
        for node in member.ml_nodes
    ]


def _selection(seed: Hash32) -> dict[str, object]:
    events = (
        event
        for number, weights in WEIGHTS.items()
        for event in registered(
            number, *((node_id, TINY) for node_id, _ in zip((NODE, SECOND_NODE), weights, strict=False))
        )
    )
    state = state_of(ModelRecorded(model()), *events)
    return {
        "seed": seed.hex(),
        "selected": sorted(map(list, select_poc_slots(_group(), _outcomes(), state, seed))),
        "selectedIfNumber1WasPreserved": sorted(map(list, select_poc_slots(_group(), _outcomes(1), state, seed))),
    }


def _bundles() -> dict[Address, VoteBundle]:
    """Number 5 commits none; 2 and 3 did not see 4; 1 and 2 measured; 1, 3 and 4 say that they served: 1 more than its
    book can come to, 3 without a book, 4 more than four times what it proved."""
    books = {1: ReceiptBook(2, 1_000, ZERO_HASH, SOME_CID), 4: ReceiptBook(200, 9_000, ZERO_HASH, SOME_CID)}
    bundles = {}
    for number in (1, 2, 3, 4):
        order = sorted((1, 2, 3, 4, 5), key=lambda n: account(n).lower())
        sightings = [
            Sighting(account(n), 300 if n == 4 and number in (1, 2, 3) else 1000) for n in order if n != number
        ]
        measures = [SpeedMeasure(account(n), TINY, 9, 50 * n * n, 10_000 * n) for n in order if number < 3]
        served = (ServedTokens(TINY, (1000 * number, 70_000)),) if number in (1, 3, 4) else ()
        observed = Observations(tuple(sightings), tuple(measures), served)
        bundles[account(number)] = VoteBundle(
            EPOCH, account(number), (), receipts=books.get(number), observations=observed
        )
    return bundles


def _throughput() -> dict[str, object]:
    group = with_poc_slots(_group(), {(account(1), NODE), (account(2), SECOND_NODE)})
    preserved = {(account(number), NODE): WEIGHTS[number][0] for number in (1, 3, 4)}
    expected = set_expected_throughput(group, PARAMETERS)
    return {
        "selected": [[account(1), NODE], [account(2), SECOND_NODE]],
        "throughputs": [
            to_value(entry)
            for entry in set_real_throughput(expected, real_throughput_vectors(group, _bundles())).throughputs
        ],
        "scaled": [
            {"participant": participant, "nodeId": node_id, "from": preserved[participant, node_id], "to": weight}
            for (participant, node_id), weight in validate_throughput_performance(
                preserved, with_poc_slots(_group(), preserved.keys()), _bundles(), PARAMETERS, is_on=True
            ).items()
        ],
    }


def _score() -> dict[str, object]:
    nodes = [outcome for outcome in _outcomes() if outcome.participant != account(4)]
    rejected = NodeOutcome(account(3), NodeId("node-3"), TINY, NodeFate.REJECTED, 100, 64, 64, 0, "mismatches", 64)
    audits = [
        AuditOutcome(account(1), TINY, Verdict.VALID, 5, 0, 900, ""),
        AuditOutcome(account(2), TINY, Verdict.ABSTAIN, 3, 1, 900, "withheld"),
    ]
    weights = {account(number): sum(own) for number, own in WEIGHTS.items()}
    scores = participant_scores(
        _group(),
        weights,
        [*nodes, rejected],
        audits,
        _bundles(),
        vote_duties={account(1): Duties(7, 3), account(2): Duties(7, 0)},
        audit_duties={account(1): Duties(5, 1)},
    )
    decided = penalties(_group(), {account(n) for n in WEIGHTS}, [*nodes, rejected], audits, scores, _bundles())
    return {
        "scores": [to_value(score) for score in scores],
        "penalties": [to_value(decision) for decision in decided],
    }


def _settle() -> dict[str, object]:
    weights = {account(number): sum(own) for number, own in WEIGHTS.items()}
    covering, offenders = {account(1), account(5)}, {account(3)}
    points = {account(1): 1000, account(2): 333, account(4): 0}
    available = TokenAmount(10**21 + 7)
    return {
        "available": str(available),
        "weights": weights,
        "covering": sorted(covering),
        "scores": points,
        "offenders": sorted(offenders),
        "amounts": {
            owner: str(amount)
            for owner, amount in get_settle_amounts(weights, covering, available, points, offenders).items()
        },
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(compute(), indent=1) + "\n")
