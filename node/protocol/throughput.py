"""What the nodes of a model can serve in an epoch, and what they did serve (requirements B7, B12). All in tokens.

`expected_throughput_vector` follows from proved weight and the allotted timeslots; `real_throughput_vector` is the sum
of what executors say in their vote bundles that they served. What one executor says is cut twice. First at the most
that the receipts in the book of the same bundle can come to (`served_by_book`): who books nothing served nothing, and
what is booked is audited. Then at CLAIM_TIMES_MAX times what its proved weight can do, so that nobody moves the
network's figure much by receipts that it wrote for itself.

A book tells of the tokens that can be drawn of its answers, mostly those written, and not of those read: prompts may be
as long as the model's context. So the first cut is generous to honest executors and leaves room for a lie: of one
answer as much as the context, of several models the longest. An executor of private answers alone, of which nothing can
be drawn, is credited with nothing.

The first slot, PRE_POC_SLOT, is SERVE; the second, POC_SLOT, is the rest of the epoch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from node.protocol.findings import ModelThroughput
from node.protocol.identifiers import Address, ModelId, NodeId
from node.protocol.records import UINT64_MAX, EpochGroup, EpochParameters, Timeslot, VoteBundle
from node.protocol.weights import calculate_model_power

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
    """Return the tokens per epoch of all nodes of the group that serve the model: its power by what it froze."""
    model = group.get_epoch_model(model_id)
    per_nonce = 0 if model is None else model.throughput_per_nonce
    return min(UINT64_MAX, calculate_model_power(group, model_id) * per_nonce)


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
    allotted = {model.model_id: [0] * SLOTS for model in group.models}
    for member in group.members:
        for node in member.ml_nodes:
            for slot, is_allotted in enumerate(node.timeslot_allocation):
                allotted[node.model_id][slot] += node.throughput * is_allotted
    return replace(
        group,
        throughputs=tuple(
            ModelThroughput(
                model_id=model_id,
                total_throughput=calculate_total_throughput(group, model_id),
                expected_throughput_vector=tuple(
                    min(UINT64_MAX, tokens * blocks[slot] // parameters.epoch_blocks)
                    for slot, tokens in enumerate(by_slot)
                ),
                real_throughput_vector=real.get(model_id, (0,) * SLOTS),
            )
            for model_id, by_slot in allotted.items()
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


def served_by_book(group: EpochGroup, bundle: VoteBundle) -> dict[ModelId, tuple[int, ...]]:
    """Return what the executor of `bundle` says it served of each model of `group`, by timeslot, cut at the most that
    the receipts in its book can come to.

    That is all tokens which can be drawn of them, and of each receipt of which any can as many more as the longest of
    the models that it names reads. Where that is less than what it says, each timeslot of each model is cut in
    proportion, rounded down. Private answers are in no book: who gives hardly any others has its service cut, which
    counts only where members voted for it.
    """
    contexts = {model.model_id: model.context_length for model in group.models}
    known = [served for served in bundle.observations.served if served.model_id in contexts]
    book, most = bundle.receipts, 0
    if book is not None and known:
        longest = max(contexts[served.model_id] for served in known)
        most = book.output_tokens + min(book.count, book.output_tokens) * longest
    said = sum(sum(served.slot_tokens) for served in known)
    if said <= most:
        return {served.model_id: served.slot_tokens for served in known}
    return {served.model_id: tuple(tokens * most // said for tokens in served.slot_tokens) for served in known}


def real_throughput_vectors(group: EpochGroup, bundles: Mapping[Address, VoteBundle]) -> dict[ModelId, tuple[int, ...]]:
    """Return what the executors of `group`, which is in charge, served by their word, as far as it counts: by model,
    for each timeslot."""
    able: dict[tuple[Address, ModelId], int] = {}
    for member in group.members:
        for node in member.ml_nodes:
            key = (member.participant, node.model_id)
            able[key] = able.get(key, 0) + node.throughput
    totals: dict[ModelId, list[int]] = {}
    for executor, bundle in bundles.items():
        for model_id, slot_tokens in served_by_book(group, bundle).items():
            most = CLAIM_TIMES_MAX * able.get((executor, model_id), 0)
            if most == 0:
                continue
            vector = totals.setdefault(model_id, [0] * SLOTS)
            for slot, tokens in enumerate(slot_tokens):
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
        (executor, model_id): slot_tokens[Timeslot.POC_SLOT.value]
        for executor, bundle in bundles.items()
        for model_id, slot_tokens in served_by_book(group, bundle).items()
    }
    scaled = {}
    for key, weight in preserved.items():
        of_model = (key[0], models[key])
        wanted = expected[of_model]
        scaled[key] = weight if wanted == 0 else weight * min(real.get(of_model, 0), wanted) // wanted
    return scaled
