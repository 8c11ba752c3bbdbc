"""The result of an epoch: the same bytes on every node that saw the same chain and the same bundles."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from node.protocol.agreement import has_enough_votes
from node.protocol.appeals import narrowly_proven
from node.protocol.audit_bands import bands_of, fraud_bands_of
from node.protocol.audit_outcomes import audit_outcomes_in_slices, committed_books
from node.protocol.audit_sampling import AuditSeeds
from node.protocol.chain_state import ChainState
from node.protocol.due_books import books_before, missing_books
from node.protocol.findings import SCORE_FULL, NodeFate, NodeOutcome, SettledShare
from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32, ModelId, NodeId, TokenAmount
from node.protocol.judges import Judges, judges_for
from node.protocol.outcomes import node_outcomes_in_slices
from node.protocol.participation import NOT_COUNTED, vote_duties_in_slices
from node.protocol.penalties import fraudulent, penalties
from node.protocol.records import (
    UINT64_MAX,
    EpochGroup,
    EpochParameters,
    EpochResult,
    EpochResultSummary,
    GroupMember,
    MLNodeRegistration,
    MLNodeSnapshot,
    ModelRecord,
    PocCommit,
    VoteBundle,
)
from node.protocol.rewards import accumulate, get_settle_amounts, pot, rewards_root, subsidy
from node.protocol.scores import participant_scores_in_slices, presences_in_slices
from node.protocol.slices import Slices, finish
from node.protocol.tails import validator_outcomes
from node.protocol.throughput import (
    is_scaling_voted,
    real_throughput_vectors,
    set_expected_throughput,
    set_real_throughput,
    validate_throughput_performance,
)
from node.protocol.timeslots import preserved_weights, with_poc_slots
from node.protocol.validation import SampleRule, judged_models, rules_of
from node.protocol.weights import (
    NodeKey,
    compute_new_weights,
    get_participant_model_coverage,
    participant_weights,
    unproven_weights,
)

FIRST_MODEL_TIMESLOTS = (True, False)
"""(PRE_POC_SLOT, POC_SLOT) of a node for the first model it registered (requirements B10)."""
OTHER_MODEL_TIMESLOTS = (False, False)
SERVING_PRESENCE_MIN = 500
"""Of an epoch's thousandths, a participant must have been seen for weight of its to be preserved: who is away serves
nobody. It takes more than half of the weight of others to say so, and a third of all (scores.py)."""
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
    *,
    rules: Mapping[NodeKey, SampleRule] | None = None,
    models: Set[ModelId] | None = None,
    judges: Judges | None = None,
    audit_seeds: AuditSeeds | None = None,
    audit_state: ChainState | None = None,
    selected: Set[NodeKey] = frozenset(),
    next_parameters: EpochParameters | None = None,
) -> EpochResult | None:
    """Form the result of `epoch`: see `form_epoch_result_in_slices`."""
    return finish(
        form_epoch_result_in_slices(
            epoch,
            state,
            parameters,
            bundles,
            previous,
            rules=rules,
            models=models,
            judges=judges,
            audit_seeds=audit_seeds,
            audit_state=audit_state,
            selected=selected,
            next_parameters=next_parameters,
        )
    )


def form_epoch_result_in_slices(
    epoch: EpochNumber,
    state: ChainState,
    parameters: EpochParameters,
    bundles: Mapping[Address, VoteBundle],
    previous: EpochResult | None,
    *,
    rules: Mapping[NodeKey, SampleRule] | None = None,
    models: Set[ModelId] | None = None,
    judges: Judges | None = None,
    audit_seeds: AuditSeeds | None = None,
    audit_state: ChainState | None = None,
    selected: Set[NodeKey] = frozenset(),
    next_parameters: EpochParameters | None = None,
) -> Slices[EpochResult | None]:
    """Form the result of `epoch`.

    `state` is the chain up to the last block before FORM; `bundles` are the committed vote bundles, fetched and checked
    (`check_bundle`); `previous` is the newest accepted result before this one, and `audit_seeds` what audits are drawn
    by, None without such a result; `audit_state` is the chain at the first block of SERVE, from which auditors took the
    hardware that bands follow from (by default `state`); `rules` are those of the batches, `models` what could be mined
    and `judges` who may judge (`rules_of`, `judged_models` and `judges_for` the chain before GENERATE; by default
    `state`); `selected` kept serving
    (`select_poc_slots`). `parameters` are those of `epoch`, and `next_parameters` those of the one after it, in which
    the group serves; by default the same.

    Every accepted batch is paid, and so is preserved weight, unless its participant is barred, has too little
    collateral, or committed fraud, or answers of its nodes with the model were proven false by few. The next group has
    those nodes that can serve: the model is still active and the node still registered for it. Returns None when no
    such node is left (no batch was accepted, or all their models were deactivated), or the bundles are of no more than
    two thirds of the weight: then the group carries on and nothing is paid.
    """
    frozen = EpochGroup(epoch, (), ()) if previous is None else replace(previous.group, epoch=epoch)
    weights = dict(state.group_weights(epoch))
    if not has_enough_votes(bundles.keys(), weights):
        return None
    if judges is None:
        judges = judges_for(epoch, weights, state, previous.group if previous else None)
    seen = yield from presences_in_slices({participant for participant, _ in selected}, weights, bundles)
    kept = {key for key in selected if state.counts(key[0], epoch) and seen[key[0]] >= SERVING_PRESENCE_MIN}
    preserved = validate_throughput_performance(
        preserved_weights(frozen, kept),
        with_poc_slots(frozen, kept),
        bundles,
        parameters,
        is_on=is_scaling_voted(bundles, weights),
    )
    committed = {key: commit for key, commit in state.poc_commits.get(epoch, {}).items() if key not in preserved}
    found = yield from node_outcomes_in_slices(
        epoch,
        {key: commit for key, commit in committed.items() if state.counts(key[0], epoch)},
        bundles,
        weights,
        rules_of(committed, state, parameters) if rules is None else rules,
        judges,
        previous.histories if previous else (),
        _by_model(preserved, frozen),
        previous.thin_weights if previous else (),
    )
    members = {member.participant for member in frozen.members}
    listed = {key: commit for key, commit in committed.items() if key[0] in members or state.is_barred(key[0], epoch)}
    nodes = _with_others(found.nodes, listed, frozen, preserved)
    registered = state if audit_state is None else audit_state
    in_charge = previous.group if previous else None
    bands, fraud_bands = bands_of(registered, in_charge), fraud_bands_of(registered, in_charge)
    audited = yield from audit_outcomes_in_slices(previous, audit_seeds, bundles, weights, bands, fraud_bands)
    audits = audited.outcomes
    validators = validator_outcomes(bundles, weights, judges)
    yield
    vote_duties = yield from vote_duties_in_slices(frozen, nodes, judges.counted, found.handed_out, bundles)
    scores = yield from participant_scores_in_slices(
        frozen, weights, nodes, audits, bundles, validators, vote_duties=vote_duties, audit_duties=audited.duties
    )
    yield
    decided = penalties(frozen, state.participants.keys(), nodes, audits, scores, bundles)
    offenders = fraudulent(decided)
    points = {score.participant: score.per_mille for score in scores}
    node_weights = compute_new_weights(nodes)
    served = {(node.participant, node.node_id): node.model_id for node in nodes}
    able = {key: weight for key, weight in node_weights.items() if key[0] not in offenders}
    group = _next_group(EpochNumber(epoch + 1), state, served, able, points)
    if not group.members:
        return None
    yield
    earning = participant_weights(node_weights)
    judged = judged_models(state, None if previous is None else previous.group) if models is None else models
    nodes_of: dict[Address, list[NodeOutcome]] = {account: [] for account in earning}
    for node in nodes:
        if node.participant in nodes_of:
            nodes_of[node.participant].append(node)
    covering = {account for account in earning if get_participant_model_coverage(account, nodes_of[account], judged)}
    available = TokenAmount(subsidy(epoch, parameters) + pot(epoch, state.work_coins_added, state.results, parameters))
    unproven = unproven_weights(narrowly_proven(audits), frozen, nodes)
    earned = get_settle_amounts(earning, covering, available, points, offenders, unproven)
    group = set_expected_throughput(group, parameters if next_parameters is None else next_parameters)
    group = set_real_throughput(group, real_throughput_vectors(frozen, bundles))
    return EpochResult(
        epoch=epoch,
        group=group,
        rewards=accumulate(previous.rewards if previous else (), state.claimed, earned),
        reward_total=TokenAmount(sum(earned.values())),
        nodes=nodes,
        histories=found.histories,
        validators=validators,
        audits=audits,
        scores=scores,
        penalties=decided,
        settled=tuple(
            SettledShare(account, weight, account in covering, earned.get(account, TokenAmount(0)))
            for account, weight in earning.items()
        ),
        available=available,
        books=committed_books(bundles, weights, frozen),
        books_before=books_before(epoch, previous),
        books_missing=missing_books(previous, bundles.keys(), weights, earning),
        judged_models=tuple(sorted(judged)),
        thin_weights=tuple(entry for entry in found.thin_weights if entry.participant not in offenders),
    )


def _by_model(preserved: Mapping[NodeKey, int], frozen: EpochGroup) -> dict[tuple[Address, ModelId], int]:
    kept: dict[tuple[Address, ModelId], int] = {}
    for member in frozen.members:
        for node in member.ml_nodes:
            weight = preserved.get((member.participant, node.node_id), 0)
            key = (member.participant, node.model_id)
            kept[key] = kept.get(key, 0) + weight
    return kept


def _with_others(
    judged: Sequence[NodeOutcome],
    committed: Mapping[NodeKey, PocCommit],
    frozen: EpochGroup,
    preserved: Mapping[NodeKey, int],
) -> tuple[NodeOutcome, ...]:
    """Add the nodes whose batches do not count, and those that kept serving; ascending by (participant, node id).

    `committed` are those of members and of who is barred: anybody else without collateral can commit thousands for the
    gas, which would make a result that nobody reads.
    """
    known = {(outcome.participant, outcome.node_id) for outcome in judged}
    models = {
        (member.participant, node.node_id): node.model_id for member in frozen.members for node in member.ml_nodes
    }
    outcomes = [
        *judged,
        *(
            NodeOutcome(*key, commit.model_id, NodeFate.UNDECIDED, commit.count, 0, 0, 0, NOT_COUNTED)
            for key, commit in committed.items()
            if key not in known
        ),
        *(NodeOutcome(*key, models[key], NodeFate.PRESERVED, 0, 0, 0, weight, "") for key, weight in preserved.items()),
    ]
    return tuple(sorted(outcomes, key=lambda outcome: (outcome.participant.lower(), outcome.node_id)))


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


def current_group(epoch: EpochNumber, state: ChainState, results: Mapping[EpochNumber, EpochResult]) -> EpochGroup:
    """Return the group in charge in `epoch`: that of the newest result before it, else one from the registry.

    `results` are the results whose content this node holds. A group that carries on because no result replaced it is
    returned under the number of the epoch it serves in.
    """
    accepted = max((number for number in state.results if number < epoch), default=None)
    if accepted is None or accepted not in results:
        return registry_group(epoch, state)
    return replace(results[accepted].group, epoch=epoch)


def registry_group(epoch: EpochNumber, state: ChainState) -> EpochGroup:
    """Build a group from chain data alone: weights in charge, nodes and models as registered now.

    For the genesis group, of which no result exists, and for a node that does not have the result's content yet.
    Nothing is frozen in such a group: it follows the registry. A participant's weight is spread evenly over its
    registered nodes (at least 1 each), each serving the first active model it lists. Members that never registered
    are left out, so weigh quorums by `ChainState.group_weights`, not by this.
    """
    members = []
    for account, weight in state.group_weights(epoch):
        participant = state.participants.get(account)
        if participant is None:
            continue
        served = [(node.node_id, model) for node in participant.ml_nodes if (model := _first_active(state, node))]
        nodes = tuple(
            _node_snapshot(state, account, node_id, model, max(1, weight // len(served))) for node_id, model in served
        )
        members.append(GroupMember(account, participant.peer_id, weight, nodes))
    return _group(epoch, state, members)


def _first_active(state: ChainState, node: MLNodeRegistration) -> ModelRecord | None:
    known = (state.get_governance_model(model_id) for model_id in node.models)
    return next((model for model in known if model is not None), None)


def _next_group(
    epoch: EpochNumber,
    state: ChainState,
    served: Mapping[NodeKey, ModelId],
    node_weights: Mapping[NodeKey, int],
    scores: Mapping[Address, int],
) -> EpochGroup:
    able = _strongest({key: weight for key, weight in node_weights.items() if _can_serve(state, key, served[key])})
    by_participant: dict[Address, list[MLNodeSnapshot]] = {account: [] for account in participant_weights(able)}
    for (account, node_id), weight in sorted(able.items(), key=lambda item: item[0][1]):
        model = state.models[served[account, node_id]]
        by_participant[account].append(_node_snapshot(state, account, node_id, model, weight))
    members = [
        GroupMember(
            account,
            state.participants[account].peer_id,
            sum(node.poc_weight for node in nodes),
            tuple(nodes),
            scores.get(account, SCORE_FULL),
        )
        for account, nodes in by_participant.items()
    ]
    return _group(epoch, state, members)


def _can_serve(state: ChainState, key: NodeKey, model_id: ModelId) -> bool:
    """Whether the node is still registered for the model and the model still active."""
    account, node_id = key
    model = state.models.get(model_id)
    participant = state.participants.get(account)
    if model is None or not model.active or participant is None:
        return False
    return any(node.node_id == node_id and model_id in node.models for node in participant.ml_nodes)


def _strongest(node_weights: Mapping[NodeKey, int]) -> dict[NodeKey, int]:
    """Keep the VALIDATORS_MAX strongest participants, ties by account: the contract takes no more."""
    totals = participant_weights(node_weights)
    kept = set(sorted(totals, key=lambda account: (-totals[account], account.lower()))[:VALIDATORS_MAX])
    return {key: weight for key, weight in node_weights.items() if key[0] in kept}


def _node_snapshot(
    state: ChainState, account: Address, node_id: NodeId, model: ModelRecord, weight: int
) -> MLNodeSnapshot:
    registered = next(node.models for node in state.participants[account].ml_nodes if node.node_id == node_id)
    is_first = registered[0] == model.model_id
    return MLNodeSnapshot(
        node_id=node_id,
        model_id=model.model_id,
        poc_weight=weight,
        # The registry takes any 64-bit throughput: the product must still have canonical bytes.
        throughput=min(weight * model.throughput_per_nonce, UINT64_MAX),
        timeslot_allocation=FIRST_MODEL_TIMESLOTS if is_first else OTHER_MODEL_TIMESLOTS,
    )


def _group(epoch: EpochNumber, state: ChainState, members: Sequence[GroupMember]) -> EpochGroup:
    """Freeze what the registry says of the models that `members` serve."""
    models = _model_snapshots(state, members)
    known = [state.calibrations.get(model.model_id) for model in models]
    calibrations = tuple(calibration for calibration in known if calibration is not None)
    return EpochGroup(epoch, tuple(members), models, calibrations=calibrations)


def _model_snapshots(state: ChainState, members: Sequence[GroupMember]) -> tuple[ModelRecord, ...]:
    served = {node.model_id for member in members for node in member.ml_nodes}
    return tuple(state.models[model_id] for model_id in sorted(served))
