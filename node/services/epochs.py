"""The epoch book: which group is in charge, and the contents of accepted results, which it fetches and checks."""

from dataclasses import dataclass

import structlog
import trio

from node.ports import BadContentError, Chain, Content, ContentUnavailableError, Store
from node.protocol.canonical_reading import CanonicalReader
from node.protocol.chain_state import ChainState
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.identifiers import BlockNumber, EpochNumber
from node.protocol.record_reading import every_list, read_record
from node.protocol.records import EpochGroup, EpochResult, EpochResultSummary
from node.protocol.results import current_group, summarise
from node.protocol.slices import Slices
from node.protocol.stages import stage_at
from node.services.presence import PresenceTable
from node.services.timing import position

log = structlog.get_logger(__name__)

RESULT_BYTES_MAX = 64 * 1024 * 1024
"""The largest group there can be and 1,000 participants, with 64 nodes each and ten models, take 38 MB; a larger file
is no result."""
ENTRY_BYTES_MAX = 128 * 1024
"""Of one member, say, with its nodes: some kilobytes. Of the content that one member alone vouches for."""
RETRY_SECONDS = 2.0
RESULTS_KEPT = 8
"""Only the newest results decide anything; older ones stay in the store."""


class ResultContentError(ValueError):
    """Bytes that are not the content of an accepted result."""


def result_to_bytes(result: EpochResult) -> bytes:
    """Return the content of a result: canonical bytes, the same on every node."""
    return to_bytes(result)


def read_result_in_slices(data: bytes) -> Slices[EpochResult]:
    """Read what a single member says is the content of a result. Raises SchemaError."""
    reader = CanonicalReader(data, "the content of a result", ENTRY_BYTES_MAX)
    result = yield from read_record(reader, EpochResult, every_list(EpochResult))
    reader.require_end()
    return result


def result_from_bytes(data: bytes, summary: EpochResultSummary) -> EpochResult:
    """Read the content of the result that the chain holds as `summary`. Raises ResultContentError.

    The CID binds the bytes already; this checks that they say what the quorum signed, so that a quorum cannot put one
    thing on chain and another into the content.
    """
    try:
        result = from_bytes(EpochResult, data)
        told = summarise(result, summary.content_cid)[0]
    except (ValueError, OverflowError) as error:
        raise ResultContentError(f"not an epoch result: {error}") from error
    if told != summary:
        raise ResultContentError(f"the content of epoch {summary.epoch} does not match the chain")
    return result


def _key_of(summary: EpochResultSummary) -> str:
    return f"result/{summary.epoch}/{summary.content_cid}"


async def log_stages(chain: Chain) -> None:
    """Write a line for every stage that begins; those missed while the daemon was down only for debugging."""
    async for change in chain.stage_changes("log"):
        present = stage_at(change.first_block, chain.schedule).next_block > chain.head.confirmed
        level = log.info if present else log.debug
        level("a stage began", epoch=change.epoch, stage=change.stage.name.lower(), first_block=change.first_block)


@dataclass(frozen=True, slots=True)
class _KnownGroup:
    """A group, and what it was made of."""

    group: EpochGroup
    state: ChainState
    events_applied: int
    newest: BlockNumber

    def holds(self, state: ChainState, newest: BlockNumber) -> bool:
        """Whether nothing has come since that it may depend on, contents of results left aside."""
        return self.state is state and self.events_applied == state.events_applied and self.newest == newest


class EpochBook:
    """Knows the groups. Results are kept in the store, so a restart needs no peer to know who is in charge."""

    def __init__(self, chain: Chain, content: Content, store: Store, presence: PresenceTable) -> None:
        self._chain = chain
        self._content = content
        self._store = store
        self._presence = presence
        self._held: dict[EpochNumber, tuple[EpochResultSummary, EpochResult]] = {}
        """Contents with what the chain said of them: a result may be voided, and another take its place."""
        self._bad: set[EpochResultSummary] = set()
        """Results of the newest RESULTS_KEPT epochs whose content is not what their quorum signed. By all that was
        signed: a false summary of a true content says nothing against the true one that may take its place."""
        self._arrived = trio.Event()
        self._known: _KnownGroup | None = None

    def group(self) -> EpochGroup:
        """The group in charge at the newest block: made once for each, for every request asks several times."""
        state, newest = self._chain.state, self._chain.head.number
        known = self._known
        if known is None or not known.holds(state, newest):
            group = self.group_of(position(self._chain).epoch, state)
            known = self._known = _KnownGroup(group, state, state.events_applied, newest)
        return known.group

    def group_of(self, epoch: EpochNumber, state: ChainState) -> EpochGroup:
        """The group in charge in `epoch`, as `state` has it."""
        return current_group(epoch, state, self._results(state))

    def result(self, epoch: EpochNumber) -> EpochResult | None:
        """The content of the accepted result of `epoch`, if it is here."""
        return self._results(self._chain.state).get(epoch)

    def newest_result(self) -> EpochResult | None:
        """The content of the newest accepted result that is here."""
        results = self._results(self._chain.state)
        return results[max(results)] if results else None

    def is_wrong(self, summary: EpochResultSummary) -> bool:
        """Whether the content of a result was read, and is not what the quorum told the chain."""
        return summary in self._bad

    async def result_before(self, epoch: EpochNumber, state: ChainState) -> EpochResult | None:
        """Return the newest result that `state` has before `epoch`; waits for its content."""
        accepted = max((number for number in state.results if number < epoch), default=None)
        if accepted is None:
            return None
        while accepted not in (results := self._results(state)):
            await self._arrived.wait()
        return results[accepted]

    def known_before(self, epoch: EpochNumber, state: ChainState) -> EpochResult | None:
        """Return the newest result that `state` has before `epoch`, if its content is here: waits for nothing."""
        accepted = max((number for number in state.results if number < epoch), default=None)
        if accepted is None:
            return None
        summary = state.results[accepted]
        if self._is_held(summary):
            return self._held[accepted][1]
        data = self._store.get_document(_key_of(summary))  # of before a restart
        if data is None:
            return None
        try:
            result = result_from_bytes(data, summary)
        except ResultContentError as error:
            log.error("the stored content of a result cannot be read", epoch=accepted, reason=str(error)[:200])
            return None
        self._held[accepted] = (summary, result)
        return result

    async def run(self) -> None:
        """Fetch the contents of the results that decide now, as the chain names them."""
        async for _ in self._chain.heads():
            while wanted := self._wanted():
                obtained = [await self._obtain(summary) for summary in wanted]
                if not all(obtained):
                    await trio.sleep(RETRY_SECONDS)

    def _results(self, state: ChainState) -> dict[EpochNumber, EpochResult]:
        """Contents held of the results that stand in `state`."""
        return {epoch: result for epoch, (summary, result) in self._held.items() if state.results.get(epoch) == summary}

    def _wanted(self) -> tuple[EpochResultSummary, ...]:
        """Which are not here yet of the newest accepted result and the one whose group is in charge now.

        From FORM on these are two: a node that restarts then goes on by the one, and judges the other by it.
        """
        results, now = self._chain.state.results, position(self._chain).epoch
        newest = max(results, default=None)
        in_charge = max((epoch for epoch in results if epoch < now), default=None)
        deciding = [results[epoch] for epoch in dict.fromkeys((newest, in_charge)) if epoch is not None]
        return tuple(summary for summary in deciding if summary not in self._bad and not self._is_held(summary))

    def _is_held(self, summary: EpochResultSummary) -> bool:
        known = self._held.get(summary.epoch)
        return known is not None and known[0] == summary

    async def _obtain(self, summary: EpochResultSummary) -> bool:
        key = _key_of(summary)
        data = self._store.get_document(key)
        try:
            if data is None:
                data = await self._content.read_bytes(
                    summary.content_cid, self._presence.providers(), limit_bytes=RESULT_BYTES_MAX
                )
            result = result_from_bytes(data, summary)
        except ContentUnavailableError as error:
            log.warning("the content of a result is not to be had yet", epoch=summary.epoch, reason=str(error))
            return False
        except (BadContentError, ResultContentError) as error:
            log.error("a quorum accepted a result whose content is wrong", epoch=summary.epoch, reason=str(error))
            self._bad = {bad for bad in self._bad if bad.epoch > summary.epoch - RESULTS_KEPT} | {summary}
            return False
        self._store.put_document(key, data)
        self._held[summary.epoch] = (summary, result)
        self._known = None
        while len(self._held) > RESULTS_KEPT:
            del self._held[min(self._held)]
        self._arrived.set()
        self._arrived = trio.Event()
        log.info("a new group is known", epoch=result.group.epoch, members=len(result.group.members))
        return True
