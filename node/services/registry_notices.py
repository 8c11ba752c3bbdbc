"""Tells the operator that a registry changed while an epoch's result was formed: it changes nothing of that result."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import structlog

from node.ports import Chain
from node.protocol.bands import Calibration
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, BlockNumber, EpochNumber, ModelId
from node.protocol.records import ModelRecord, ParticipantRecord
from node.protocol.stages import Stage, first_block_of

log = structlog.get_logger(__name__)

NAMED_MAX = 8
"""Models or participants named in one line: anybody may register, as often as the gas is paid for."""

Key = TypeVar("Key", bound=str)


@dataclass(frozen=True, slots=True)
class _Registries:
    """What stood in them at one time: a state goes on."""

    models: Mapping[ModelId, ModelRecord]
    calibrations: Mapping[ModelId, Calibration]
    participants: Mapping[Address, ParticipantRecord]


async def log_registry_changes(chain: Chain, epoch: EpochNumber) -> None:
    """Write a line when what is confirmed differs from what stood before FORM, and again at each further change.

    `epoch` is the one whose FORM has begun. Never ends: to be cancelled with FORM.
    """
    known = _copied(await chain.state_at(BlockNumber(first_block_of(epoch, Stage.FORM, chain.schedule) - 1)))
    async for _ in chain.heads():
        newest = _copied(chain.state)
        models = {*_changed(known.models, newest.models), *_changed(known.calibrations, newest.calibrations)}
        participants = _changed(known.participants, newest.participants)
        known = newest
        if models or participants:
            log.info(
                "a registry changed while the result of this epoch is formed: the result goes by what stood before",
                epoch=epoch,
                models=_named(models),
                participants=_named(participants),
            )


def _copied(state: ChainState) -> _Registries:
    return _Registries(dict(state.models), dict(state.calibrations), dict(state.participants))


def _changed(before: Mapping[Key, object], now: Mapping[Key, object]) -> set[Key]:
    """Keys with another value now, or with none any more. From block to block most values are the same objects."""
    if before == now:
        return set()
    return {key for key in (*before, *now) if before.get(key) != now.get(key)}


def _named(changed: Iterable[str]) -> list[str]:
    return sorted(changed)[:NAMED_MAX]
