"""Records for tests: short ways to say what a test is about, with everything else filled in."""

from dataclasses import fields

from coincurve import PrivateKey

from node.protocol.chain_state import ChainState
from node.protocol.events import (
    ChainEvent,
    EventBody,
    GroupSet,
    MLNodeSet,
    ParametersScheduled,
    ParticipantRegistered,
    PocCommitted,
)
from node.protocol.identifiers import (
    Address,
    BlockNumber,
    Cid,
    EpochNumber,
    Hash32,
    ModelId,
    NodeId,
    PeerId,
    TokenAmount,
)
from node.protocol.nonces import draw_sample
from node.protocol.receipt_books import NOBODY, BookRow
from node.protocol.records import EpochParameters, MLNodeRegistration, ModelRecord, PocCommit, PocVote, VoteBundle
from node.protocol.signatures import address_of
from node.protocol.verdicts import Verdict

TINY = ModelId("tiny")
NODE = NodeId("node-1")
SOME_CID = Cid("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
SAMPLE_SEED = Hash32(b"\x05" * 32)
PARAMETERS = EpochParameters(
    genesis_block=BlockNumber(0),
    epoch_blocks=60,
    generate_offset=10,
    exchange_offset=20,
    validate_offset=24,
    vote_exchange_offset=34,
    form_offset=38,
    load_offset=48,
    poc_sample_size=8,
    poc_reject_mismatches=3,
    unit_price=TokenAmount(7),
    initial_subsidy=TokenAmount(1_000_000),
    halving_epochs=4,
)


def unasked_row(digest: Hash32, tokens: int, payer: bytes = NOBODY) -> BookRow:
    """A row for an answer that was asked for by no request to its executor."""
    return BookRow(digest, digest, tokens, payer)


def key_of(number: int) -> PrivateKey:
    """The key of test participant `number` (1 and up)."""
    return PrivateKey(number.to_bytes(32))


def account(number: int) -> Address:
    """The account of test participant `number`."""
    return address_of(key_of(number).public_key)


def peer(number: int) -> PeerId:
    """The peer bound to it."""
    return PeerId(f"12D3KooWtest{number}")


def model(model_id: ModelId = TINY, *, active: bool = True, throughput_per_nonce: int = 10) -> ModelRecord:
    """A model of the registry."""
    return ModelRecord(
        model_id=model_id,
        cid=SOME_CID,
        name=str(model_id),
        description="",
        active=active,
        version=1,
        hf_repo="",
        hf_commit="",
        model_args=(),
        vram_mib=0,
        throughput_per_nonce=throughput_per_nonce,
        units_of_compute_per_token=2,
        context_length=512,
        poc_distance_max=1_000_000,
        quantization="",
        kv_cache_quantization="",
        gated=False,
        encrypted=False,
        proposer=account(90),
    )


def state_of(*bodies: EventBody) -> ChainState:
    """The fold of events, one per block."""
    state = ChainState()
    for index, body in enumerate(bodies):
        state.apply(ChainEvent(BlockNumber(index), Hash32(index.to_bytes(32)), 0, body))
    return state


def registered(number: int, *nodes: tuple[NodeId, ModelId]) -> tuple[EventBody, ...]:
    """Events of a participant with nodes that serve one model each (by default NODE with TINY)."""
    nodes = nodes or ((NODE, TINY),)
    return (
        ParticipantRegistered(account(number), peer(number), consented=True),
        *(MLNodeSet(account(number), MLNodeRegistration(node_id, (model_id,), "cpu")) for node_id, model_id in nodes),
    )


def group_set(epoch: int, weights: dict[int, int]) -> GroupSet:
    """A group by participant numbers."""
    entries = sorted(((account(number), weight) for number, weight in weights.items()), key=lambda e: e[0].lower())
    return GroupSet(EpochNumber(epoch), tuple(entries))


def commit(
    number: int, count: int, *, epoch: int = 0, node_id: NodeId = NODE, model_id: ModelId = TINY
) -> PocCommitted:
    """A committed batch."""
    batch = PocCommit(EpochNumber(epoch), account(number), node_id, model_id, count, Hash32(bytes(32)), SOME_CID)
    return PocCommitted(batch)


def vote_on(batch: PocCommit, verdict: Verdict) -> PocVote:
    """A well-formed vote on `batch`."""
    if verdict is Verdict.ABSTAIN:
        return PocVote(batch.participant, batch.node_id, verdict, 0, (), "no-model")
    sampled = draw_sample(SAMPLE_SEED, batch.participant, batch.node_id, batch.count, PARAMETERS.poc_sample_size)
    mismatches = () if verdict is Verdict.VALID else sampled
    reason = "" if verdict is Verdict.VALID else "mismatches"
    return PocVote(batch.participant, batch.node_id, verdict, len(sampled), mismatches, reason)


def scheduled(from_epoch: int, from_block: int, **changed: int) -> ParametersScheduled:
    """Other parameters from an epoch on; what is not `changed` is as in PARAMETERS."""
    names = [item.name for item in fields(ParametersScheduled) if item.name not in ("from_epoch", "from_block")]
    values = {name: getattr(PARAMETERS, name) for name in names} | changed
    return ParametersScheduled(EpochNumber(from_epoch), BlockNumber(from_block), **values)


def bundle_of(number: int, *votes: PocVote, epoch: int = 0) -> VoteBundle:
    """A bundle with its votes in order."""
    ordered = sorted(votes, key=lambda vote: (vote.participant.lower(), vote.node_id))
    evidence = SOME_CID if any(vote.sampled for vote in ordered) else None
    return VoteBundle(EpochNumber(epoch), account(number), tuple(ordered), evidence_cid=evidence)
