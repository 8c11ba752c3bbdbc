"""Which duties of an epoch this node has missed, by what the confirmed chain holds. Pure."""

from collections.abc import Callable, Collection, Iterator

from node.alerts.judging import MissedDuty
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, BlockNumber, EpochNumber
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage, first_block_of, stage_at
from node.protocol.weights import NodeKey


def missed_duties(
    state: ChainState,
    schedule: ParameterSchedule,
    account: Address,
    confirmed: BlockNumber,
    without_proofs: Collection[str] = (),
    keep_serving: Callable[[EpochNumber], Collection[NodeKey]] = lambda _: (),
) -> tuple[MissedDuty, ...]:
    """Return the duties of the epoch of block `confirmed` whose time is over and of which the chain holds nothing.

    `without_proofs` are ML nodes that cannot prove work, and `keep_serving` names those that were drawn to serve
    through an epoch's Proof of Compute: what they are not to do, they do not miss.
    """
    if confirmed < schedule.first.genesis_block:
        return ()
    excused = {(account, node_id) for node_id in without_proofs}
    excused |= set(keep_serving(stage_at(confirmed, schedule).epoch))
    return tuple(_missed(state, schedule, account, confirmed, excused))


def _missed(
    state: ChainState,
    schedule: ParameterSchedule,
    account: Address,
    confirmed: BlockNumber,
    excused: Collection[tuple[Address, str]],
) -> Iterator[MissedDuty]:
    where = stage_at(confirmed, schedule)
    participant = state.participants.get(account)
    generate = first_block_of(where.epoch, Stage.GENERATE, schedule)
    if participant is not None and where.stage >= Stage.VALIDATE and participant.registered_at < generate:
        for node in participant.ml_nodes:
            active = any(model in state.models and state.models[model].active for model in node.models)
            done = state.get_poc_batches_for_node(where.epoch, account, node.node_id)
            if active and (account, node.node_id) not in excused and not done:
                yield MissedDuty(where.epoch, f"commit a batch of nonces of {node.node_id}")
    weight = dict(state.group_weights(where.epoch)).get(account, 0)
    others = any(key[0] != account for key in state.poc_commits.get(where.epoch, {}))
    bundles = state.vote_bundles.get(where.epoch, {})
    if weight > 0 and others and where.stage >= Stage.FORM and account not in bundles:
        yield MissedDuty(where.epoch, "commit its votes")
