"""Parameters that change between epochs: which hold in which epoch, and which blocks are whose (requirements B13).

Purpose: governance may give later epochs another length, other stages, another sample or price. No epoch that is
present or past is touched, so every block has one epoch for ever, and whoever knows the events knows it.

Detail: a schedule is what the network began with and the changes that the chain told. Within a change's epochs the rule
is that of the first ones (stages.py), counted from where epoch 0 would have begun had all been like these: its
parameters say that block as their genesis. So parameters of the epoch in question are enough for everything within it;
only what looks beyond it needs the schedule.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from node.protocol.events import ParametersScheduled
from node.protocol.identifiers import BlockNumber
from node.protocol.records import EpochParameters


@dataclass(frozen=True, slots=True)
class ParameterSchedule:
    """The parameters of every epoch, as far as it is known."""

    first: EpochParameters
    """What the network began with."""
    changes: tuple[ParametersScheduled, ...] = ()
    """Ascending; each begins with an epoch of the one before."""
    _later: tuple[EpochParameters, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_later", tuple(_parameters(self.first, change) for change in self.changes))

    def of_epoch(self, epoch: int) -> EpochParameters:
        """Return the parameters that hold in `epoch`."""
        for change, parameters in zip(reversed(self.changes), reversed(self._later), strict=True):
            if change.from_epoch <= epoch:
                return parameters
        return self.first

    def at_block(self, block: int) -> EpochParameters:
        """Return the parameters that hold at `block`; the first ones before genesis."""
        for change, parameters in zip(reversed(self.changes), reversed(self._later), strict=True):
            if change.from_block <= block:
                return parameters
        return self.first

    def next_change(self, block: int) -> ParametersScheduled | None:
        """Return the change that is scheduled and has not begun at `block`, if there is one."""
        return next((change for change in self.changes if change.from_block > block), None)


def with_change(
    changes: Sequence[ParametersScheduled], change: ParametersScheduled, at: BlockNumber
) -> tuple[ParametersScheduled, ...]:
    """Return `changes` with one that was told in block `at`: it takes the place of one that had not begun there."""
    return (*(known for known in changes if known.from_block <= at), change)


def _parameters(first: EpochParameters, change: ParametersScheduled) -> EpochParameters:
    return replace(
        first,
        genesis_block=BlockNumber(change.from_block - change.from_epoch * change.epoch_blocks),
        epoch_blocks=change.epoch_blocks,
        generate_offset=change.generate_offset,
        exchange_offset=change.exchange_offset,
        validate_offset=change.validate_offset,
        vote_exchange_offset=change.vote_exchange_offset,
        form_offset=change.form_offset,
        load_offset=change.load_offset,
        poc_sample_size=change.poc_sample_size,
        poc_reject_mismatches=change.poc_reject_mismatches,
        unit_price=change.unit_price,
    )
