"""Watches others for the epoch's evidence: who was present, how fast executors answered, what this node served.

*Detail.* What was seen since the last vote bundle goes into the next (`take`). A node that sees nobody at all is cut
off itself, and its samples count for nothing. After a restart a node says what it saw since: less, but true.
"""

from collections.abc import Callable

import trio

from node.ports import Chain, Store
from node.protocol.findings import SCORE_FULL, Observations, ServedTokens, Sighting, SpeedMeasure
from node.protocol.identifiers import Address, ModelId
from node.protocol.observations import MEASURES_MAX, SERVED_MAX, SIGHTINGS_MAX
from node.protocol.records import Timeslot
from node.protocol.stages import Stage
from node.protocol.throughput import SLOTS, ServedAnswer, measure_model_throughput_for_blocks
from node.services.epochs import EpochBook
from node.services.presence import PresenceTable
from node.services.timing import position

SAMPLE_SECONDS = 10.0
"""As often as presence is announced."""
SAMPLES_MIN = 6
"""Who was looked for less often, in a minute, was not observed: a new member, or a node that has just begun."""
RECEIPTS_PER_PAGE = 500

Measures = Callable[[], tuple[SpeedMeasure, ...]]


class Observer:
    """Gathers what this node can say of the epoch."""

    def __init__(
        self,
        chain: Chain,
        epochs: EpochBook,
        presence: PresenceTable,
        store: Store,
        measures: Measures = tuple,
        *,
        wants_scaling: bool = False,
    ) -> None:
        """`measures` gives what this node's gateway measured since it was asked last, and forgets it. `wants_scaling`
        is this node's vote on scaling preserved weights by throughput.
        """
        self._wants_scaling = wants_scaling
        self._chain = chain
        self._epochs = epochs
        self._presence = presence
        self._store = store
        self._measures = measures
        self._looked: dict[Address, int] = {}
        """Samples in which a participant was looked for; at most SIGHTINGS_MAX are."""
        self._seen: dict[Address, int] = {}
        self._served: dict[ModelId, list[int]] = {}
        self._counted_to: int | None = None
        """Number of the newest receipt that was counted."""

    async def run(self) -> None:
        """Look every SAMPLE_SECONDS."""
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            self.look()

    def look(self) -> None:
        """Take one sample, and count what was served since the last."""
        self._count_served()
        present = self._presence.present()
        if present.keys() <= {self._chain.account}:
            return
        for member in self._epochs.group().members:
            account = member.participant
            if account == self._chain.account or (account not in self._looked and len(self._looked) >= SIGHTINGS_MAX):
                continue
            self._looked[account] = self._looked.get(account, 0) + 1
            self._seen[account] = self._seen.get(account, 0) + (account in present)

    def take(self) -> Observations:
        """Return what was observed since this was asked last, in the order bundles have it."""
        self._count_served()
        sightings = tuple(
            Sighting(account, SCORE_FULL * self._seen[account] // looked)
            for account, looked in sorted(self._looked.items(), key=lambda item: item[0].lower())
            if looked >= SAMPLES_MIN
        )
        measures = sorted(self._measures(), key=lambda measure: (measure.executor.lower(), measure.model_id))
        served = tuple(ServedTokens(model_id, tuple(tokens)) for model_id, tokens in sorted(self._served.items()))
        self._looked, self._seen, self._served = {}, {}, {}
        return Observations(sightings, tuple(measures[:MEASURES_MAX]), served[:SERVED_MAX], self._wants_scaling)

    def _count_served(self) -> None:
        if self._counted_to is None:  # what was served before this node began is in the bundle before
            self._counted_to = self._store.newest_given()
        block = self._chain.head.number
        slot = Timeslot.PRE_POC_SLOT if position(self._chain).stage is Stage.SERVE else Timeslot.POC_SLOT
        while True:
            page = self._store.receipts_given(after=self._counted_to, limit=RECEIPTS_PER_PAGE)
            answers = (
                ServedAnswer(signed.receipt.model_id, block, signed.receipt.prompt_tokens, signed.receipt.output_tokens)
                for _, signed in page
            )
            for model_id, tokens in measure_model_throughput_for_blocks(answers, block, block).items():
                self._served.setdefault(model_id, [0] * SLOTS)[slot.value] += tokens
            if page:
                self._counted_to = page[-1][0]
            if len(page) < RECEIPTS_PER_PAGE:
                return
