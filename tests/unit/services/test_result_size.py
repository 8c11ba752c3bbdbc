"""The largest result there can be is one that nodes sign and read: else nobody is paid."""

from dataclasses import replace

from node.protocol.findings import (
    AuditOutcome,
    CommittedBook,
    EarlierBook,
    ModelWeight,
    NodeFate,
    NodeOutcome,
    ParticipantScore,
    PointLoss,
    ReceiptBook,
    SampleCount,
    SampleHistory,
    ScorePart,
    SettledShare,
    ThinWeight,
)
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, NodeId, TokenAmount
from node.protocol.records import EpochGroup, EpochResult, GroupMember, MLNodeSnapshot, RewardShare
from node.protocol.results import VALIDATORS_MAX
from node.protocol.verdicts import Verdict
from node.services.epochs import RESULT_BYTES_MAX, result_to_bytes
from tests.builders import SOME_CID, peer

PARTICIPANTS, NODES, MODELS = 1000, 64, 10
MODEL_IDS = [ModelId(f"organisation/some-model-name-{number}") for number in range(MODELS)]
NODE_IDS = [NodeId(f"node-gpu-{number}") for number in range(NODES)]


def test_the_largest_group_and_a_thousand_participants_make_a_result_that_is_signed() -> None:
    accounts = [Address(f"0x{number:040x}") for number in range(PARTICIPANTS)]
    members = accounts[:VALIDATORS_MAX]
    epoch, large = EpochNumber(10_000), TokenAmount(10**24)
    on = [(node, MODEL_IDS[place % MODELS]) for place, node in enumerate(NODE_IDS)]
    part = ScorePart(990, (PointLoss("withheld", 10),))
    snapshots = tuple(MLNodeSnapshot(node, model, 250_000, 10**7, (True, False)) for node, model in on)
    book = ReceiptBook(10**6, 10**9, Hash32(bytes(32)), SOME_CID)
    counts = tuple(SampleCount(EpochNumber(9_000 + place), 5120, 3, 281) for place in range(14))
    by_model = tuple(ModelWeight(model, 10**6) for model in MODEL_IDS)
    nodes = tuple(
        NodeOutcome(account, node, model, NodeFate.ACCEPTED, 250_000, 512, 3, 248_000, "nonces-differ")
        for account in accounts
        for node, model in on
    )
    audits = tuple(
        AuditOutcome(account, node, model, Verdict.VALID, 8, 0, 4000, "", tuple([12_345_678] * 8))
        for account in members
        for node, model in on
    )
    result = EpochResult(
        epoch,
        EpochGroup(epoch, tuple(GroupMember(account, peer(1), 16 * 10**6, snapshots) for account in members), ()),
        tuple(RewardShare(account, large) for account in accounts),
        large,
        nodes=nodes,
        histories=tuple(SampleHistory(account, model, counts) for account in accounts for model in MODEL_IDS),
        audits=audits,
        scores=tuple(ParticipantScore(account, part, part, part, part, 990) for account in accounts),
        books=tuple(CommittedBook(account, book, by_model) for account in members),
        books_before=tuple(EarlierBook(account, epoch, book) for account in members),
        settled=tuple(SettledShare(account, 16 * 10**6, True, large) for account in accounts),
        thin_weights=tuple(
            ThinWeight(account, model, 10**6, 10**8, epoch) for account in accounts for model in MODEL_IDS
        ),
    )
    size = len(result_to_bytes(result))
    assert 32 * 1024**2 < size < RESULT_BYTES_MAX * 3 // 4
    assert len(result_to_bytes(replace(result, nodes=nodes * 2))) < RESULT_BYTES_MAX
