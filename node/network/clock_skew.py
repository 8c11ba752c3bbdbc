"""How far the clocks of other participants are off, from the times in their signed messages."""

from collections import OrderedDict
from statistics import median

from node.protocol.identifiers import Address

PARTICIPANTS_MAX = 64
"""The newest; one vote each, so that one participant's wrong clock says nothing of ours."""


class ClockSkews:
    """The newest difference by participant, in seconds; positive where their clock is ahead."""

    def __init__(self) -> None:
        self._skews: OrderedDict[Address, float] = OrderedDict()

    def note(self, account: Address, seconds: float) -> None:
        """Note a message whose time differs by so much from this clock when it arrives."""
        self._skews[account] = seconds
        self._skews.move_to_end(account)
        while len(self._skews) > PARTICIPANTS_MAX:
            self._skews.popitem(last=False)

    def median(self) -> float | None:
        """The median over participants; None while none was heard."""
        return median(self._skews.values()) if self._skews else None
