"""Gives work to a participant's ML nodes: the one place that knows how busy each of them is.

*Purpose.* Whoever wants an engine takes a lease. The broker chooses the node (least work, prefix affinity), keeps each
node at its number of places, lets payers wait in a fair line, and refuses with a time before the line grows.

*Detail.* Background work (mining, validating) has places of its own, so that it neither takes a user's place nor waits
for ever: the engine itself runs it at low priority, and here it stands back for a moment while users wait in the line
of its node's model.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from node.ports import CallFailedError, Engine
from node.protocol.identifiers import ModelId, NodeId
from node.services.balancing import (
    PREFIX_BLOCK_TOKENS,
    FairLine,
    LineState,
    NodeLoad,
    admit,
    choose,
    prefix_blocks,
    work_tokens,
)
from node.services.refusals import busy_error

PLACES_DEFAULT = 64
"""Requests a node runs at once where the settings do not say: the number of sequences a CPU engine is started with."""
WAITING_PER_PLACE_MAX = 4
WAITING_MIN = 16
"""A line may be this long, or so many times the places; the time below is the limit that is met first."""
WAIT_SECONDS_MAX = 5.0
"""No request joins a line in which it would wait longer: another executor may be free, and users are told a time.
Gateways take an executor for dead that gives no first token within ten seconds (node/services/patience.py)."""
PATIENCE_SECONDS_MAX = 9.0
"""A request that waited so long, against all estimates, is sent away before its gateway loses patience."""
BACKGROUND_PLACES = 4
"""Questions in the background at once: those that mining or validating has on its way, and one of an audit."""
BACKGROUND_PLACES_BESIDE_USERS = 1
BACKGROUND_PATIENCE_SECONDS = 2.0
"""How long background work that is asked in one piece stands back for waiting users: it has a deadline."""
PREFIX_BLOCKS_KEPT_MAX = 8192
"""Per node: half a million tokens of prompts, about what an engine's cache holds."""
PACE_FIRST = 20.0
"""Tokens per second and request that a node is believed to make until it was measured."""
PACE_SHARE = 0.2
"""Weight of a new measurement."""
PACE_TOKENS_MIN = 8
"""Shorter answers say more about the prompt than about the pace."""
OUTPUT_TOKENS_FIRST = 256
"""Length an answer is believed to have until some were seen; users ask for far more than they get."""
TOKENS_LEFT_MIN = 16
"""An answer longer than was expected is believed to go on for a little."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """How one ML node is used, to be shown."""

    node_id: NodeId
    model_id: ModelId | None
    places: int
    running: int
    background: int
    tokens_per_second: float
    """What all its places together are believed to make."""


@dataclass(slots=True, eq=False)
class _Node:
    """An engine and how busy it is."""

    engine: Engine
    places: int
    pace: float = PACE_FIRST
    leases: set["Lease"] = field(default_factory=set)
    background: int = 0
    prefixes: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def tokens_per_second(self) -> float:
        return self.pace * self.places

    @property
    def tokens_left(self) -> int:
        return sum(lease.tokens_left for lease in self.leases)

    def load_for(self, blocks: Sequence[int]) -> NodeLoad:
        known = 0
        while known < len(blocks) and blocks[known] in self.prefixes:
            known += 1
        return NodeLoad(
            self.places, len(self.leases), self.tokens_left, self.tokens_per_second, known * PREFIX_BLOCK_TOKENS
        )

    def remember(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):  # the beginning is forgotten last: without it the rest is of no use
            self.prefixes[block] = None
            self.prefixes.move_to_end(block)
        while len(self.prefixes) > PREFIX_BLOCKS_KEPT_MAX:
            self.prefixes.popitem(last=False)


class Lease:
    """A place at an engine. Tell it what the engine gives: the broker's idea of its load comes from that."""

    def __init__(self, node: _Node, work: int, prompt_work: int) -> None:
        self.node = node
        self._work = work
        self._prompt_work = prompt_work
        self._first_at = self._newest_at = 0.0
        self._first_tokens = 0
        self.output_tokens = 0

    @property
    def engine(self) -> Engine:
        """The engine to use."""
        return self.node.engine

    @property
    def tokens_left(self) -> int:
        """Work that is left, by estimate."""
        return max(self._work - (self._prompt_work if self.output_tokens else 0) - self.output_tokens, TOKENS_LEFT_MIN)

    @property
    def excess_work(self) -> int:
        """By how much it was more work than was thought."""
        return self._prompt_work + self.output_tokens - self._work

    @property
    def pace(self) -> float | None:
        """Tokens per second after the first, if there were enough to tell."""
        seconds = self._newest_at - self._first_at
        tokens = self.output_tokens - self._first_tokens
        return tokens / seconds if tokens >= PACE_TOKENS_MIN and seconds > 0 else None

    def produced(self, tokens: int) -> None:
        """The engine gave `tokens` more."""
        self._newest_at = trio.current_time()
        if not self.output_tokens:
            self._first_at, self._first_tokens = self._newest_at, tokens
        self.output_tokens += tokens


@dataclass(slots=True, eq=False)
class _Waiter:
    """A request that wants a place. It is called when it has one, or when there will be none."""

    payer: str
    work: int
    prompt_tokens: int
    blocks: list[int]
    avoid: Collection[NodeId]
    called: trio.Event = field(default_factory=trio.Event)
    lease: Lease | None = None


class Broker:
    """Leases of the ML nodes of this participant."""

    def __init__(self, engines: Sequence[Engine], places: Mapping[NodeId, int] | None = None) -> None:
        """`places`: requests that run at once, by node; PLACES_DEFAULT where it does not say."""
        given = places or {}
        self._nodes = [_Node(engine, given.get(engine.node_id, PLACES_DEFAULT)) for engine in engines]
        self._lines: dict[ModelId, FairLine[str, _Waiter]] = {}
        """One for each model that was served since the start: as many as the settings name, at most."""
        self._output_tokens: dict[ModelId, float] = {}
        self._changed = trio.Event()

    # --- What others want to know -----------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Requests of users that run or wait here."""
        return sum(len(node.leases) for node in self._nodes) + sum(map(len, self._lines.values()))

    @property
    def capacity(self) -> int:
        """Requests that can run at once on the nodes that are ready."""
        return sum(node.places for node in self._nodes if node.engine.model_id is not None)

    def views(self) -> tuple[NodeView, ...]:
        """How each node is used."""
        return tuple(
            NodeView(
                node.engine.node_id,
                node.engine.model_id,
                node.places,
                len(node.leases),
                node.background,
                node.tokens_per_second,
            )
            for node in self._nodes
        )

    def serves_users(self, node_id: NodeId) -> bool:
        """Whether requests of users run on a node."""
        return bool(self._node(node_id).leases)

    def ready_engine(self, model_id: ModelId, avoid: Collection[NodeId] = ()) -> Engine | None:
        """Return an engine that has the model ready, the least busy: to tokenize, which needs no lease."""
        ready = [node for node in self._ready(model_id) if node.engine.node_id not in avoid]
        return min(ready, key=lambda node: len(node.leases) / node.places).engine if ready else None

    def refusal(self, model_id: ModelId, payer: str) -> CallFailedError | None:
        """Return why a request of `payer` would not be taken now: before anything is done for it."""
        ready = self._ready(model_id)
        if not ready:
            return _not_serving(model_id)
        line = self._line(model_id)
        if not len(line) and any(len(node.leases) < node.places for node in ready):
            return None
        places = sum(node.places for node in ready)
        state = LineState(
            waiting=len(line),
            waiting_of_payer=line.count_of(payer),
            waiting_tokens=line.work,
            running_tokens=sum(node.tokens_left for node in ready),
            places=places,
            tokens_per_second=sum(node.tokens_per_second for node in ready),
        )
        waiting_max = max(WAITING_MIN, WAITING_PER_PLACE_MAX * places)
        seconds = admit(state, waiting_max=waiting_max, wait_seconds_max=WAIT_SECONDS_MAX)
        return None if seconds is None else busy_error(seconds, f"{len(line)} requests wait for {model_id} here")

    # --- Leases -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lease(
        self,
        model_id: ModelId,
        *,
        payer: str,
        prompt_ids: Sequence[int],
        max_tokens: int,
        avoid: Collection[NodeId] = (),
    ) -> AsyncIterator[Lease]:
        """Hold a place for a user's request at the node that suits it best; wait in line for it if need be.

        `payer` is whom the line is fair to, `avoid` are nodes that just failed. Raises CallFailedError `not-serving`
        if no node has the model ready, `busy` (node.services.refusals) if the wait would be too long.
        """
        refusal = self.refusal(model_id, payer)
        if refusal is not None:
            raise refusal
        expected = self._output_tokens.get(model_id, OUTPUT_TOKENS_FIRST)
        work = work_tokens(len(prompt_ids), min(max_tokens, round(expected) + 1))
        waiter = _Waiter(payer, work, len(prompt_ids), prefix_blocks(prompt_ids), avoid)
        line = self._line(model_id)
        try:
            if len(line) or not self._seat(model_id, waiter):
                line.join(waiter, payer, work)
                await self._until_called(waiter, model_id)
            else:
                line.pass_by(payer, work)
            if waiter.lease is None:
                raise _not_serving(model_id)
            yield waiter.lease
        finally:
            line.leave(waiter)
            if waiter.lease is not None:
                self._release(model_id, waiter.lease, payer)

    @asynccontextmanager
    async def lease_background(
        self, node_id: NodeId, *, patience_seconds: float = BACKGROUND_PATIENCE_SECONDS
    ) -> AsyncIterator[Engine]:
        """Hold one of a node's places for background work; stand back for so long while users wait for its model.

        Beside users there is one such place.
        """
        node = self._node(node_id)
        with trio.move_on_after(patience_seconds):
            while self._is_waited_for(node):
                await self._changed.wait()
        while node.background >= (BACKGROUND_PLACES_BESIDE_USERS if node.leases else BACKGROUND_PLACES):
            await self._changed.wait()
        node.background += 1
        try:
            yield node.engine
        finally:
            node.background -= 1
            self._wake()

    def _node(self, node_id: NodeId) -> _Node:
        return next(node for node in self._nodes if node.engine.node_id == node_id)

    def _is_waited_for(self, node: _Node) -> bool:
        line = None if node.engine.model_id is None else self._lines.get(node.engine.model_id)
        return line is not None and len(line) > 0

    async def _until_called(self, waiter: _Waiter, model_id: ModelId) -> None:
        with trio.move_on_after(PATIENCE_SECONDS_MAX) as patience:
            await waiter.called.wait()
        if patience.cancelled_caught and waiter.lease is None:
            raise busy_error(WAIT_SECONDS_MAX, f"no place for {model_id} was free within {PATIENCE_SECONDS_MAX:.0f} s")

    def _seat(self, model_id: ModelId, waiter: _Waiter) -> bool:
        """Give a request its place if one is free; return whether there is nothing left to wait for."""
        allowed = [node for node in self._ready(model_id) if node.engine.node_id not in waiter.avoid]
        index = choose([node.load_for(waiter.blocks) for node in allowed], waiter.prompt_tokens)
        if index is not None:
            node = allowed[index]
            waiter.lease = Lease(node, waiter.work, work_tokens(waiter.prompt_tokens, 0))
            node.leases.add(waiter.lease)
            node.remember(waiter.blocks)
        return index is not None or not allowed

    def _release(self, model_id: ModelId, lease: Lease, payer: str) -> None:
        """Take a place back, learn from what was done there, and call whoever can have it."""
        lease.node.leases.remove(lease)
        if lease.pace is not None:
            lease.node.pace += PACE_SHARE * (lease.pace - lease.node.pace)
        if lease.output_tokens:
            expected = self._output_tokens.get(model_id, OUTPUT_TOKENS_FIRST)
            self._output_tokens[model_id] = expected + PACE_SHARE * (lease.output_tokens - expected)
        self._line(model_id).correct(payer, lease.excess_work)
        for waited_for, line in self._lines.items():
            while (waiter := line.first()) is not None and self._seat(waited_for, waiter):
                line.take(waiter)
                waiter.called.set()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _ready(self, model_id: ModelId) -> list[_Node]:
        return [node for node in self._nodes if node.engine.model_id == model_id]

    def _line(self, model_id: ModelId) -> FairLine[str, _Waiter]:
        """Return the waiting line of a model that is or was served: whoever asks made sure of that."""
        return self._lines.setdefault(model_id, FairLine())


def _not_serving(model_id: ModelId) -> CallFailedError:
    return CallFailedError("not-serving", f"no engine here has {model_id} ready")
