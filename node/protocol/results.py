"""The result of an epoch: the same bytes on every node that saw the same chain and the same bundles."""

from collections.abc import Mapping, Sequence, Set

from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32, ModelId, NodeId, TokenAmount
from node.protocol.records import (
    EpochGroup,
    EpochParameters,
    EpochResult,
    EpochResultSummary,
    GroupMember,
    MLNodeSnapshot,
    ModelRecord,
    VoteBundle,
)
from node.protocol.rewards import accumulate, get_settle_amounts, rewards_root, subsidy
from node.protocol.weights import (
    NodeKey,
    batch_outcomes,
    compute_new_weights,
    get_participant_model_coverage,
    participant_weights,
)

FIRST_MODEL_TIMESLOTS = (True, False)
"""(PRE_POC_SLOT, POC_SLOT) of a node for the first model it registered (requirements B10)."""
OTHER_MODEL_TIMESLOTS = (False, False)
VALIDATOR_ENTRY_BYTES = 28
"""20 bytes of account, 8 bytes of big-endian weight."""
VALIDATORS_MAX = 512
"""Members a group may have, as the contract has it: the set must fit in one contract's code."""


def form_epoch_result(
    epoch: EpochNumber,
    state: ChainState,
    parameters: EpochParameters,
    bundles: Mapping[Address, VoteBundle],
    previous: EpochResult | None,
) -> EpochResult | None:
    """Form the result of `epoch`.

    `state` is the chain up to the last block before FORM; `bundles` are the committed vote bundles, fetched and
    checked (`check_bundle`); `previous` is the newest accepted result before this one. Returns None when no batch was
    accepted: then the group carries on and nothing is paid.
    """
    commits = state.poc_commits.get(epoch, {})
    group_weights = dict(state.group_weights(epoch))
    outcomes = batch_outcomes(commits, bundles, group_weights)
    node_weights = _strongest(compute_new_weights(commits, outcomes))
    if not node_weights:
        return None
    served = {(participant, commits[participant, node_id].model_id) for participant, node_id in node_weights}
    served_models = {model_id for _, model_id in served}
    group = EpochGroup(
        epoch=EpochNumber(epoch + 1),
        members=_members(state, node_weights, {key: commits[key].model_id for key in node_weights}),
        models=_model_snapshots(state, served_models),
    )
    weights = participant_weights(node_weights)
    active = [model for model in state.models.values() if model.active]
    covering = {account for account in weights if get_participant_model_coverage(account, served, active)}
    earned = get_settle_amounts(weights, covering, subsidy(epoch, parameters))
    return EpochResult(
        epoch=epoch,
        group=group,
        rewards=accumulate(previous.rewards if previous else (), earned),
        reward_total=TokenAmount(sum(earned.values())),
    )


def check_bundle(bundle: VoteBundle, epoch: EpochNumber, validator: Address) -> None:
    """Raise ValueError unless `bundle` is what `validator` may have committed for `epoch`."""
    if bundle.epoch != epoch or bundle.validator != validator:
        raise ValueError("the bundle names another epoch or validator")
    keys = [(vote.participant.lower(), vote.node_id) for vote in bundle.votes]
    if keys != sorted(set(keys)):
        raise ValueError("votes must ascend by (participant, node id), each once")
    for vote in bundle.votes:
        if vote.distances and len(vote.distances) != len(vote.sampled):
            raise ValueError(f"{vote.participant}/{vote.node_id}: a distance for each sampled nonce, or none")


def summarise(result: EpochResult, content_cid: Cid) -> tuple[EpochResultSummary, bytes]:
    """Return what goes on chain of `result`, and the packed validator set of the next group."""
    validator_set = pack_validator_set([(member.participant, member.weight) for member in result.group.members])
    summary = EpochResultSummary(
        epoch=result.epoch,
        content_cid=content_cid,
        validator_set_hash=Hash32(keccak(validator_set)),
        total_weight=result.group.total_weight,
        rewards_root=rewards_root(result.rewards),
        reward_total=result.reward_total,
    )
    return summary, validator_set


def pack_validator_set(weights: Sequence[tuple[Address, int]]) -> bytes:
    """Pack (account, weight) entries, which must ascend by account."""
    return b"".join(bytes.fromhex(account[2:]) + weight.to_bytes(8) for account, weight in weights)


def unpack_validator_set(data: bytes) -> tuple[tuple[Address, int], ...]:
    """Unpack what `pack_validator_set` made; raise ValueError on any other bytes."""
    if len(data) % VALIDATOR_ENTRY_BYTES or len(data) > VALIDATORS_MAX * VALIDATOR_ENTRY_BYTES:
        raise ValueError(f"not a validator set: {len(data)} bytes")
    entries = [data[start : start + VALIDATOR_ENTRY_BYTES] for start in range(0, len(data), VALIDATOR_ENTRY_BYTES)]
    accounts = [entry[:20] for entry in entries]
    if accounts != sorted(set(accounts)):
        raise ValueError("validators must ascend by account, each once")
    return tuple((Address(to_checksum_address(entry[:20])), int.from_bytes(entry[20:])) for entry in entries)


def registry_group(epoch: EpochNumber, state: ChainState) -> EpochGroup:
    """Build a group from chain data alone: weights in charge, nodes and models as registered now.

    For the genesis group, of which no result exists, and for a node that does not have the result's content yet.
    A participant's weight is spread evenly over its registered nodes, each serving the first active model it lists.
    """
    active = {model_id for model_id, model in state.models.items() if model.active}
    members = []
    for account, weight in state.group_weights(epoch):
        participant = state.participants.get(account)
        if participant is None:
            continue
        served = [
            (node.node_id, next(model_id for model_id in node.models if model_id in active))
            for node in participant.ml_nodes
            if active.intersection(node.models)
        ]
        nodes = tuple(
            _node_snapshot(state, account, node_id, state.models[model_id], weight // len(served))
            for node_id, model_id in served
        )
        members.append(GroupMember(account, participant.peer_id, weight, nodes))
    served_models = {node.model_id for member in members for node in member.ml_nodes}
    return EpochGroup(epoch, tuple(members), _model_snapshots(state, served_models))


def _strongest(node_weights: Mapping[NodeKey, int]) -> dict[NodeKey, int]:
    """Keep the VALIDATORS_MAX strongest participants, ties by account: the contract takes no more."""
    totals = participant_weights(node_weights)
    kept = set(sorted(totals, key=lambda account: (-totals[account], account.lower()))[:VALIDATORS_MAX])
    return {key: weight for key, weight in node_weights.items() if key[0] in kept}


def _members(
    state: ChainState, node_weights: Mapping[NodeKey, int], served: Mapping[NodeKey, ModelId]
) -> tuple[GroupMember, ...]:
    members = []
    for account, weight in participant_weights(node_weights).items():
        nodes = tuple(
            _node_snapshot(state, account, node_id, state.models[served[owner, node_id]], node_weight)
            for (owner, node_id), node_weight in sorted(node_weights.items(), key=lambda item: item[0][1])
            if owner == account
        )
        members.append(GroupMember(account, state.participants[account].peer_id, weight, nodes))
    return tuple(members)


def _node_snapshot(
    state: ChainState, account: Address, node_id: NodeId, model: ModelRecord, weight: int
) -> MLNodeSnapshot:
    registered = next((n.models for n in state.participants[account].ml_nodes if n.node_id == node_id), ())
    is_first = registered[:1] == (model.model_id,)
    return MLNodeSnapshot(
        node_id=node_id,
        model_id=model.model_id,
        poc_weight=weight,
        throughput=weight * model.throughput_per_nonce,
        timeslot_allocation=FIRST_MODEL_TIMESLOTS if is_first else OTHER_MODEL_TIMESLOTS,
    )


def _model_snapshots(state: ChainState, served: Set[ModelId]) -> tuple[ModelRecord, ...]:
    return tuple(state.models[model_id] for model_id in sorted(served))
