"""Nodes that come and go: who is up during which blocks, from a seed.

Every honest node of a simulation that does not stay all the time has one of four fates, in turn, so that each is there
however few they are: it restarts within a stage, it is away for whole epochs and comes back, it joins in the middle of
an epoch, or it leaves for good.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import cycle

from node.protocol.records import EpochParameters
from node.protocol.stages import Stage, first_block_of

RESTART_BLOCKS_MAX = 3
"""A crash and what it takes to be back."""
AWAY_EPOCHS_MAX = 3


class Fate(Enum):
    """What becomes of a node."""

    STAYS = "stays"
    RESTARTS = "restarts"
    RETURNS = "returns"
    JOINS = "joins"
    LEAVES = "leaves"


@dataclass(frozen=True, slots=True)
class Span:
    """Blocks during which a node is up."""

    first: int
    end: int | None
    """The block at which it goes down; None: never."""

    def covers(self, first: int, end: int) -> bool:
        """Whether it is up from block `first` to before block `end`."""
        return self.first <= first and (self.end is None or self.end >= end)


@dataclass(frozen=True, slots=True)
class Attendance:
    """When a node is up."""

    fate: Fate
    spans: tuple[Span, ...]

    def is_up(self, first: int, end: int) -> bool:
        """Whether it is up from block `first` to before block `end` without a break."""
        return any(span.covers(first, end) for span in self.spans)


ALWAYS = Attendance(Fate.STAYS, (Span(0, None),))


def plan_churn(numbers: Sequence[int], epochs: int, parameters: EpochParameters, seed: int) -> dict[int, Attendance]:
    """Return when each of the nodes `numbers` is up. The first epoch is left alone: nobody has proved anything yet."""
    chance = random.Random(f"churn/{seed}")
    fates = cycle((Fate.RESTARTS, Fate.RETURNS, Fate.JOINS, Fate.LEAVES))
    stages = cycle(Stage)
    for _ in range(chance.randrange(len(Stage))):
        next(stages)
    return {number: _attendance(next(fates), stages, epochs, parameters, chance) for number in numbers}


def _attendance(
    fate: Fate, stages: Iterator[Stage], epochs: int, parameters: EpochParameters, chance: random.Random
) -> Attendance:
    epoch = chance.randrange(1, max(2, epochs))
    stage = next(stages)
    begin = first_block_of(epoch, stage, parameters)
    end = (
        first_block_of(epoch + 1, Stage.SERVE, parameters)
        if stage is Stage.LOAD
        else (first_block_of(epoch, Stage(stage + 1), parameters))
    )
    down = chance.randrange(begin, end)
    spans: tuple[Span, ...]
    match fate:
        case Fate.RESTARTS:
            spans = (Span(0, down), Span(down + chance.randint(1, RESTART_BLOCKS_MAX), None))
        case Fate.RETURNS:
            away = chance.randint(1, AWAY_EPOCHS_MAX) * parameters.epoch_blocks
            spans = (Span(0, down), Span(down + away, None))
        case Fate.JOINS:
            spans = (Span(down, None),)
        case Fate.LEAVES:
            spans = (Span(0, down),)
        case Fate.STAYS:
            return ALWAYS
    return Attendance(fate, spans)
