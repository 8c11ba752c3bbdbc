"""The state at past blocks is the fold from the start, whatever was asked before, and costs what its distance is."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node.chain import folds
from node.chain.event_codec import event_from_bytes, event_to_bytes
from node.chain.folds import Folds
from node.protocol import chain_state
from node.protocol.chain_state import ChainState
from node.protocol.events import (
    ChainEvent,
    ChannelFunded,
    CollateralDeposited,
    CollateralSlashed,
    CollateralUnbonding,
    EpochResultPosted,
    EpochResultVoided,
    EventBody,
    GroupStored,
    MLNodeSet,
    ModelRecorded,
    ParticipantLeft,
    ParticipantPunished,
    ParticipantRegistered,
    PromptAnswered,
    PromptReclaimed,
    PromptSubmitted,
    RewardClaimed,
    VotesCommitted,
    VoucherRedeemed,
    WithdrawRequested,
    WorkCoinsAdded,
)
from node.protocol.identifiers import BlockNumber, EpochNumber, Hash32, ModelId, NodeId, TokenAmount
from node.protocol.records import EpochResultSummary, MLNodeRegistration
from node.protocol.verdicts import Offence
from node.store.chain_tables import ChainTables
from node.store.database import Database
from tests.builders import SOME_CID, TINY, account, commit, model, peer

FIRST = BlockNumber(1)
GROUP = ((account(1), 5), (account(2), 7))
GROUP_HASH = Hash32(b"\x07" * 32)


def body_of(state: ChainState, kind: int, number: int) -> EventBody:
    """An event that contracts may emit where the chain says `state`."""
    who, epoch, channel = account(1 + number % 3), EpochNumber(number // 2), Hash32(bytes([number % 4]) * 32)
    amount, later = TokenAmount(10 * number), BlockNumber(1000)
    prompt = min(state.unfinished_prompts, default=None)
    bodies: list[EventBody] = [
        CollateralDeposited(who, amount),
        CollateralUnbonding(who, amount, TokenAmount(1), number),
        CollateralSlashed(who, amount, amount, TokenAmount(0), epoch),
        ParticipantPunished(epoch, who, Offence.DOWNTIME),
        ParticipantRegistered(who, peer(number), consented=number % 3 > 0),
        ParticipantLeft(who),
        MLNodeSet(who, MLNodeRegistration(NodeId(f"node-{number % 2}"), (TINY,), "cpu")),
        ModelRecorded(model(ModelId(f"model-{number % 3}"), active=number % 2 == 0)),
        commit(number % 3 + 1, count=number + 1, epoch=epoch),
        VotesCommitted(epoch, who, SOME_CID),
        RewardClaimed(who, amount),
        WorkCoinsAdded(who, amount),
        ChannelFunded(channel, who, account(9), amount),
        WithdrawRequested(channel, who, account(9), number),
        PromptSubmitted(state.prompts_submitted, who, TINY, SOME_CID, SOME_CID, 9, amount, account(1), later),
        GroupStored(GROUP_HASH, GROUP),
    ]
    if channel in state.channels:
        bodies.append(VoucherRedeemed(channel, amount))
    if prompt is not None:
        bodies.append(PromptAnswered(prompt, who, SOME_CID, 1, 2, amount, later))
        bodies.append(PromptReclaimed(prompt, who, amount))
    if GROUP_HASH in state.stored_groups and epoch not in state.results:
        summary = EpochResultSummary(epoch, SOME_CID, GROUP_HASH, 12, Hash32(bytes(32)), amount)
        bodies.append(EpochResultPosted(summary, who))
    if epoch in state.results:
        bodies.append(EpochResultVoided(epoch, Hash32(bytes([number]) * 32)))
    return bodies[kind % len(bodies)]


class Chain:
    """Blocks in a store, and the fold of each from the start."""

    def __init__(self, tables: ChainTables) -> None:
        self.tables = tables
        self.records: list[list[ChainEvent]] = []
        """By block, from FIRST on."""
        self.confirmed = BlockNumber(FIRST - 1)

    @property
    def tip(self) -> BlockNumber:
        return BlockNumber(FIRST - 1 + len(self.records))

    def fold(self, block: int) -> ChainState:
        state = ChainState()
        for events in self.records[: block - FIRST + 1]:
            for event in events:
                state.apply(event)
        return state

    def add(self, drawn: list[tuple[int, int]]) -> None:
        number, state, events = BlockNumber(self.tip + 1), self.fold(self.tip), list[ChainEvent]()
        for index, (kind, salt) in enumerate(drawn):
            events.append(ChainEvent(number, Hash32(bytes(32)), index, body_of(state, kind, salt)))
            state.apply(events[-1])
        records = [(number, index, event_to_bytes(event)) for index, event in enumerate(events)]
        self.tables.add_blocks(number, Hash32(bytes(32)), records, self.confirmed)
        self.records.append(events)

    def replace_newest(self, drawn: list[tuple[int, int]]) -> None:
        if self.tip > self.confirmed:
            self.tables.roll_back(self.tip)
            self.records.pop()
            self.add(drawn)

    def confirm(self, block: int) -> None:
        self.confirmed = BlockNumber(max(self.confirmed, min(block, self.tip)))
        self.tables.confirm(self.confirmed)


@contextmanager
def chain() -> Iterator[Chain]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "chain.sqlite")
        yield Chain(ChainTables(database))
        database.close()


EVENTS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 11)), max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), EVENTS),
        st.tuples(st.just("add"), EVENTS),
        st.tuples(st.just("reorganise"), EVENTS),
        st.tuples(st.just("confirm"), st.integers(0, 3)),
        st.tuples(st.just("ask"), st.integers(0, 60)),
        st.tuples(st.just("ask"), st.integers(0, 60)),
        st.tuples(st.just("restart"), st.none()),
    ),
    min_size=10,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, copies=st.integers(1, 5), entries=st.integers(0, 200))
def test_every_past_state_is_the_fold_from_the_start_and_stays_so(
    steps: list[tuple[str, object]], copies: int, entries: int
) -> None:
    async def ask_about(played: Chain) -> None:
        past, told = Folds(played.tables, FIRST), list[tuple[BlockNumber, ChainState]]()
        for what, drawn in steps:
            match what, drawn:
                case "add", list():
                    played.add(drawn)
                case "reorganise", list():
                    played.replace_newest(drawn)
                case "confirm", int():
                    played.confirm(played.tip - drawn)
                    past.advance(played.confirmed)
                case "ask", int():
                    block = BlockNumber(played.confirmed - drawn % (played.confirmed + 1))
                    told.append((block, await past.at(block)))
                case _:
                    past = Folds(played.tables, FIRST)
                    past.advance(played.confirmed)
            for block, state in (*told, (past.newest, past.state)):
                assert state == played.fold(block)

    with pytest.MonkeyPatch.context() as patch, chain() as played:
        patch.setattr(folds, "EVENTS_BETWEEN_COPIES", 3)
        patch.setattr(chain_state, "EPOCHS_KEPT", 2)
        patch.setattr(folds, "COPIES_MIN", 1)
        patch.setattr(folds, "ANSWERS_MIN", 0)
        patch.setattr(folds, "ANSWERS_MAX", 2)
        patch.setattr(folds, "COPIES_MAX", copies)
        patch.setattr(folds, "ENTRIES_MAX", entries)
        trio.run(ask_about, played)


@pytest.fixture
def folded(monkeypatch: pytest.MonkeyPatch) -> list[BlockNumber]:
    """Notes the block of every event that is folded."""
    noted: list[BlockNumber] = []

    def note(record: bytes) -> ChainEvent:
        event = event_from_bytes(record)
        noted.append(event.block_number)
        return event

    monkeypatch.setattr(folds, "event_from_bytes", note)
    return noted


def long_chain(tables: ChainTables, blocks: int) -> Folds:
    """A block has one event."""
    records = [
        (number, 0, event_to_bytes(ChainEvent(BlockNumber(number), Hash32(bytes(32)), 0, commit_of(number))))
        for number in range(FIRST, blocks + 1)
    ]
    tables.add_blocks(BlockNumber(blocks), Hash32(bytes(32)), records, blocks)
    past = Folds(tables, FIRST)
    past.advance(BlockNumber(blocks))
    return past


def commit_of(number: int) -> EventBody:
    return commit(number % 7 + 1, count=number, epoch=EpochNumber(number // 100))


BLOCKS = 4000
BETWEEN = 16


async def test_a_question_folds_a_part_of_what_came_since_its_block(
    monkeypatch: pytest.MonkeyPatch, folded: list[BlockNumber]
) -> None:
    monkeypatch.setattr(folds, "EVENTS_BETWEEN_COPIES", BETWEEN)
    for back in (1, 5, BETWEEN, 100, 1000, 2000, BLOCKS - 1):
        with chain() as played:
            past = long_chain(played.tables, BLOCKS)
            assert len(past._copies) == folds.COPIES_MAX
            folded.clear()
            await past.at(BlockNumber(BLOCKS - back))
            assert len(folded) <= back + 2 * BETWEEN
            folded.clear()
            await past.at(BlockNumber(BLOCKS - back))
            assert not folded


async def test_what_is_kept_is_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "EVENTS_BETWEEN_COPIES", BETWEEN)
    with chain() as played:
        past = long_chain(played.tables, BLOCKS)
        for block in range(BLOCKS, BLOCKS - 100, -1):
            await past.at(BlockNumber(block))
        assert (len(past._copies), len(past._answers)) == (folds.COPIES_MAX, folds.ANSWERS_MAX)
        assert past.state.entries() > 0
        monkeypatch.setattr(folds, "ENTRIES_MAX", 9 * past.state.entries())
        await past.at(BlockNumber(1))
        kept = (*past._copies, *past._answers)
        assert sum(copy.entries for copy in kept) <= folds.ENTRIES_MAX
        monkeypatch.setattr(folds, "ENTRIES_MAX", 0)
        await past.at(BlockNumber(1))
        assert (len(past._copies), len(past._answers)) == (folds.COPIES_MIN, folds.ANSWERS_MIN)


def test_where_there_is_room_for_few_copies_none_is_made_to_be_dropped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds, "EVENTS_BETWEEN_COPIES", BETWEEN)
    monkeypatch.setattr(folds, "ENTRIES_MAX", 0)
    made: list[int] = []
    copy = ChainState.copy

    def noting(state: ChainState) -> ChainState:
        made.append(state.events_applied)
        return copy(state)

    monkeypatch.setattr(ChainState, "copy", noting)
    with chain() as played:
        past = long_chain(played.tables, BLOCKS)
        assert len(made) <= BLOCKS / BETWEEN
        assert past._copies[-1].state.events_applied == made[-1]


async def test_who_asks_for_the_same_block_at_once_folds_once(
    monkeypatch: pytest.MonkeyPatch, folded: list[BlockNumber]
) -> None:
    monkeypatch.setattr(folds, "EVENTS_BETWEEN_COPIES", 10 * BLOCKS)
    with chain() as played:
        past = long_chain(played.tables, BLOCKS)
        folded.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(past.at, BlockNumber(BLOCKS - 10))
        assert len(folded) == BLOCKS - 10


async def test_blocks_come_and_others_have_their_turn_while_a_question_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folds, "EVENTS_BETWEEN_COPIES", 10 * BLOCKS)
    with chain() as played:
        past = long_chain(played.tables, BLOCKS)
        block, state, turns = BlockNumber(BLOCKS - 10), ChainState(), 0

        async def ask() -> None:
            nonlocal state
            state = await past.at(block)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while True:
                turns += 1
                number = BlockNumber(BLOCKS + turns)
                body = commit_of(number)
                record = event_to_bytes(ChainEvent(number, Hash32(bytes(32)), 0, body))
                played.tables.add_blocks(number, Hash32(bytes(32)), [(number, 0, record)], number)
                past.advance(number)
                await trio.lowlevel.checkpoint()
        assert turns > BLOCKS // folds.EVENTS_PER_TURN // 2
        assert state.events_applied == block
        assert past.state.events_applied == BLOCKS + turns


async def test_a_block_that_is_not_folded_yet_is_refused() -> None:
    with chain() as played:
        past = long_chain(played.tables, 3)
        with pytest.raises(AssertionError, match="after 3"):
            await past.at(BlockNumber(4))
