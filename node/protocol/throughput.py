"""What the nodes of a model can serve in an epoch, and what they did serve (requirements B7, B12). All in tokens.

`expected_throughput_vector` follows from proved weight and the allotted timeslots; `real_throughput_vector` is the sum
of what executors say in their vote bundles that they served, by receipts of theirs. What one executor says is cut at
CLAIM_TIMES_MAX times what its proved weight can do, so that nobody moves the network's figure much by receipts that it
wrote for itself.

The first slot, PRE_POC_SLOT, is SERVE; the second, POC_SLOT, is the rest of the epoch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from node.protocol.findings import ModelThroughput
from node.protocol.identifiers import Address, ModelId, NodeId
from node.protocol.records import UINT64_MAX, EpochGroup, EpochParameters, Timeslot, VoteBundle

CLAIM_TIMES_MAX = 4
"""`throughput_per_nonce` is an estimate of the registry: honest nodes may be faster than it says."""
SLOTS = len(Timeslot)


@dataclass(frozen=True, slots=True)
class ServedAnswer:
    """What one receipt says of throughput: when an answer was complete, and how many tokens it took."""

    model_id: ModelId
    block: int
    prompt_tokens: int
    output_tokens: int


def calculate_total_throughput(group: EpochGroup, model_id: ModelId) -> int:
    """Return the sum of the throughputs of all nodes of the group that serve the model."""
    return min(
        UINT64_MAX,
        sum(node.throughput for member in group.members for node in member.ml_nodes if node.model_id == model_id),
    )


def slot_blocks(parameters: EpochParameters) -> tuple[int, int]:
    """Return how many blocks of an epoch each timeslot has."""
    return parameters.generate_offset, parameters.epoch_blocks - parameters.generate_offset


def measure_model_throughput_for_blocks(
    answers: Iterable[ServedAnswer], first_block: int, last_block: int
) -> dict[ModelId, int]:
    """Return the input and output tokens of each model, over the answers from `first_block` to `last_block`."""
    totals: dict[ModelId, int] = {}
    for answer in answers:
        if first_block <= answer.block <= last_block:
            tokens = answer.prompt_tokens + answer.output_tokens
            totals[answer.model_id] = min(UINT64_MAX, totals.get(answer.model_id, 0) + tokens)
    return totals


def set_expected_throughput(group: EpochGroup, parameters: EpochParameters) -> EpochGroup:
    """Return `group` with the expected throughput of each model that it serves; the real ones stay, or are zeros.

    `parameters` are those of the epoch in which the group serves: a change may give it another length, or other stages.
    """
    real = {entry.model_id: entry.real_throughput_vector for entry in group.throughputs}
    blocks = slot_blocks(parameters)
    totals: dict[ModelId, int] = {model.model_id: 0 for model in group.models}
    allotted = {model_id: [0] * SLOTS for model_id in totals}
    for member in group.members:
        for node in member.ml_nodes:
            totals[node.model_id] += node.throughput
            for slot, is_allotted in enumerate(node.timeslot_allocation):
                allotted[node.model_id][slot] += node.throughput * is_allotted
    return replace(
        group,
        throughputs=tuple(
            ModelThroughput(
                model_id=model_id,
                total_throughput=min(UINT64_MAX, total),
                expected_throughput_vector=tuple(
                    min(UINT64_MAX, tokens * blocks[slot] // parameters.epoch_blocks)
                    for slot, tokens in enumerate(allotted[model_id])
                ),
                real_throughput_vector=real.get(model_id, (0,) * SLOTS),
            )
            for model_id, total in totals.items()
        ),
    )


def set_real_throughput(group: EpochGroup, real: Mapping[ModelId, tuple[int, ...]]) -> EpochGroup:
    """Return `group` with the throughput that its models really had; zeros for those nobody asked."""
    return replace(
        group,
        throughputs=tuple(
            replace(entry, real_throughput_vector=real.get(entry.model_id, (0,) * SLOTS)) for entry in group.throughputs
        ),
    )


def real_throughput_vectors(group: EpochGroup, bundles: Mapping[Address, VoteBundle]) -> dict[ModelId, tuple[int, ...]]:
    """Return what the executors of `group`, which is in charge, say they served: by model, for each timeslot."""
    able: dict[tuple[Address, ModelId], int] = {}
    for member in group.members:
        for node in member.ml_nodes:
            key = (member.participant, node.model_id)
            able[key] = able.get(key, 0) + node.throughput
    totals: dict[ModelId, list[int]] = {}
    for executor, bundle in bundles.items():
        for served in bundle.observations.served:
            most = CLAIM_TIMES_MAX * able.get((executor, served.model_id), 0)
            if most == 0:
                continue
            vector = totals.setdefault(served.model_id, [0] * SLOTS)
            for slot, tokens in enumerate(served.slot_tokens):
                counted = min(tokens, most)
                vector[slot] = min(UINT64_MAX, vector[slot] + counted)
                most -= counted
    return {model_id: tuple(vector) for model_id, vector in sorted(totals.items())}


def is_scaling_voted(bundles: Mapping[Address, VoteBundle], weights: Mapping[Address, int]) -> bool:
    """Whether members with more than two thirds of the weight want preserved weights scaled in this epoch."""
    wanting = sum(weights.get(voter, 0) for voter, bundle in bundles.items() if bundle.observations.wants_scaling)
    return 3 * wanting > 2 * sum(weights.values())


def validate_throughput_performance(
    preserved: Mapping[tuple[Address, NodeId], int],
    group: EpochGroup,
    bundles: Mapping[Address, VoteBundle],
    parameters: EpochParameters,
    *,
    is_on: bool,
) -> dict[tuple[Address, NodeId], int]:
    """Return preserved weights, scaled by what their participants really served in POC_SLOT where that `is_on`.

    It is off unless the network votes for it (`is_scaling_voted`): little demand looks like little service, so it is
    of use only where there is always more to do than the expected throughput. `group` has the POC_SLOTs of this epoch
    set.
    """
    if not is_on:
        return dict(preserved)
    share = slot_blocks(parameters)[Timeslot.POC_SLOT.value]
    expected: dict[tuple[Address, ModelId], int] = {}
    models: dict[tuple[Address, NodeId], ModelId] = {}
    for member in group.members:
        for node in member.ml_nodes:
            if (member.participant, node.node_id) in preserved:
                models[member.participant, node.node_id] = node.model_id
                of_model = (member.participant, node.model_id)
                able = node.throughput * share // parameters.epoch_blocks
                expected[of_model] = expected.get(of_model, 0) + able
    real = {
        (executor, served.model_id): served.slot_tokens[Timeslot.POC_SLOT.value]
        for executor, bundle in bundles.items()
        for served in bundle.observations.served
    }
    scaled = {}
    for key, weight in preserved.items():
        of_model = (key[0], models[key])
        wanted = expected[of_model]
        scaled[key] = weight if wanted == 0 else weight * min(real.get(of_model, 0), wanted) // wanted
    return scaled
