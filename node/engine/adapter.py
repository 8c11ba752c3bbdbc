"""The engine port on vLLM: one ML node, whose server is started, watched, restarted, drained and switched.

*Detail.* `node.engine.plan` decides, this module carries out. A node has one server (`current`); while it changes to
another version where there is memory for both, a second one (`standby`) that takes over; and then the first
(`retiring`) until its last request is done.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import structlog
import trio

from node.engine.alerts import AlertHook, no_alerts
from node.engine.arguments import EngineArgumentsError, merge_model_args, model_arguments, registry_arguments
from node.engine.client import EngineClient
from node.engine.endpoint import Endpoint
from node.engine.failures import REMOTE_RESTARTS, RESTARTS, FailureRecord
from node.engine.plan import (
    STATE_AFTER,
    Action,
    BeginMining,
    Choice,
    Drain,
    DropStandby,
    EndMining,
    Load,
    LoadBeside,
    NodeFacts,
    NodeWishes,
    Promote,
    Resume,
    Settle,
    Stop,
    plan,
    wake_at,
)
from node.engine.running import EngineEnvironment
from node.engine.slots import Slot, Slots
from node.engine.states import READY_STATES, NodeState, step
from node.engine.status import NodeStatus
from node.engine.text_client import TextClient
from node.engine.trouble import Trouble
from node.engine.watchdog import Patience
from node.ports import ChatMessage, EngineFailedError, GenerationChunk, GenerationRequest
from node.protocol.draws import Drawn, Prefill
from node.protocol.engines import EngineRangeError, engine_range_of
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.records import ModelRecord

log = structlog.get_logger(__name__)

DRAIN_SECONDS_DEFAULT = 60.0
STANDBY_RETRY_SECONDS = 60.0


class EngineNode:
    """`node.ports.Engine`. `load` says what to serve; `run` makes it so."""

    def __init__(
        self,
        node_id: NodeId,
        place: EngineEnvironment | Endpoint,
        directory: Path,
        model_args: Sequence[str] = (),
        *,
        drain_seconds: float = DRAIN_SECONDS_DEFAULT,
        loads_beside: bool = False,
        patience: Patience | None = None,
        on_alert: AlertHook = no_alerts,
    ) -> None:
        """Run servers with what `place` has installed, or use the one that answers there.

        The log is in `logs`, the rest in `run` of the data directory `directory`. Draining cuts requests off after
        `drain_seconds`. With `loads_beside` there is memory for two models at once. `patience` says how long a server
        may be silent; without it, what fits the machine.
        """
        self._node_id = node_id
        self._place = place
        self._directory = directory
        self._operator_args = tuple(model_args)
        self._drain_seconds = drain_seconds
        self._loads_beside = loads_beside and isinstance(place, EngineEnvironment)
        self._slots = Slots(node_id, place, directory, patience)
        self._wishes = NodeWishes()
        self._stopping = False
        self._held_file = directory / "run" / f"engine-{node_id}.drained"
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._current: Slot | None = None
        self._standby: Slot | None = None
        self._retiring: Slot | None = None
        self._state = NodeState.STOPPED
        self._state_at: float | None = None
        self._failed_choice: Choice | None = None
        self._failures = FailureRecord(RESTARTS if isinstance(place, EngineEnvironment) else REMOTE_RESTARTS)
        self._trouble = Trouble(node_id, self._failures, on_alert)
        self._drain_until = 0.0
        self._standby_retry_at = 0.0
        self._no_model = "its model is not registered, or the chain has not been read yet"
        self.restarts = 0

    @property
    def node_id(self) -> NodeId:
        """The ML node's name."""
        return self._node_id

    @property
    def state(self) -> NodeState:
        """How it is."""
        return self._state

    @property
    def model_id(self) -> ModelId | None:
        """The model that is ready and takes new work, or None."""
        if self._state not in READY_STATES or self._current is None:
            return None
        return self._current.run.choice.model_id

    @property
    def vocabulary_size(self) -> int:
        """Token ids run from 0 to this, exclusive."""
        return 0 if self._current is None else self._current.run.vocabulary_size

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the server of the model that is ready answers, or None."""
        return None if self.model_id is None or self._current is None else self._current.run.endpoint

    @property
    def draws_by_rule(self) -> bool:
        """Whether the server that is ready draws tokens by the network's rule: it was asked."""
        return self._current is not None and self._current.run.draws_by_rule

    @property
    def loads_beside(self) -> bool:
        """Whether a second model may be loaded while the first still serves."""
        return self._loads_beside

    @property
    def running_requests(self) -> int:
        """Requests for tokens that its servers have not finished."""
        return sum(slot.running for slot in (self._current, self._retiring) if slot is not None)

    def status(self) -> NodeStatus:
        """How it is, for its operator."""
        run = None if self._current is None else self._current.run
        return NodeStatus(
            node_id=self._node_id,
            state=self._state,
            state_seconds=0.0 if self._state_at is None else trio.current_time() - self._state_at,
            model_id=None if self._wishes.model is None else self._wishes.model.model_id,
            place=str(self._place) if isinstance(self._place, Endpoint) else "",
            engine="" if run is None else run.engine_name,
            phase=run.phase if run is not None and self._state is NodeState.LOADING else "",
            running_requests=self.running_requests,
            restarts=self.restarts,
            last_error=self._failures.last_error,
            outside=self._failures.outside,
            given_up=self._failures.given_up,
            held=self._wishes.held,
            no_model=self._no_model if self._wishes.model is None else "",
            caution=run.caution if run is not None and self._state in READY_STATES else "",
        )

    def choose(self, model: ModelRecord, path: Path) -> Choice:
        """Return what a server of `model` in `path` runs with. Raises EngineArgumentsError."""
        arguments = merge_model_args(registry_arguments(model), self._operator_args)
        try:
            engine = str(engine_range_of(model.model_args))
        except EngineRangeError as error:
            raise EngineArgumentsError(str(error)) from error
        on_cpu = isinstance(self._place, EngineEnvironment) and self._place.on_cpu
        return Choice(
            model_id=model.model_id,
            cid=model.cid,
            arguments=model_arguments(arguments, model.context_length, on_cpu=on_cpu),
            engine=engine,
            path=path,
            context_length=model.context_length,
        )

    def load(self, model: ModelRecord, path: Path) -> None:
        """Serve `model` from now on. Raises EngineArgumentsError if its arguments are not allowed."""
        self._wish(replace(self._wishes, model=self.choose(model, path)))

    def load_next(self, model: ModelRecord | None, path: Path = Path()) -> None:
        """Have `model` ready beside what is served, for the next epoch; None if nothing is to be.

        Without `loads_beside` this has no effect. Raises EngineArgumentsError.
        """
        choice = None if model is None or not self._loads_beside else self.choose(model, path)
        self._wish(replace(self._wishes, next_model=choice))

    def unload(self) -> None:
        """Stop serving and free the memory."""
        self._wish(replace(self._wishes, model=None, next_model=None))

    def explain(self, reason: str) -> None:
        """Say why no model was given to it yet, for its operator."""
        self._no_model = reason

    def mine(self, mining: bool) -> None:
        """Tell whether nonces are computed now."""
        self._wish(replace(self._wishes, mining=mining))

    def hold(self) -> None:
        """Finish what runs and serve nothing until `release`, also after a restart of the daemon."""
        self._held_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._held_file.touch(mode=0o600)
        self._wish(replace(self._wishes, held=True))

    def release(self) -> None:
        """Serve again after `hold`."""
        self._held_file.unlink(missing_ok=True)
        self._wish(replace(self._wishes, held=False))

    async def restart(self) -> None:
        """End the server, if it runs, and start anew: also what was given up. What runs is cut off."""
        self._failures.forgive()
        slot = self._current
        if slot is not None and self._state in (NodeState.LOADING, *READY_STATES):
            self._current, self._failed_choice, self._failures.retry_at = None, slot.run.choice, math.inf
            self._enter(NodeState.FAILED)
            await slot.end()
            self._failures.retry_at = 0.0
        self._wake()

    async def drain(self) -> None:
        """Finish what runs, at most for the time allowed, and stop for good: the daemon ends."""
        self._stopping = True
        self._wake()
        while self._nursery is not None and (self._current is not None or self._retiring is not None):
            await self._changed.wait()

    async def until_ready(self) -> None:
        """Wait until a model is ready."""
        while self.model_id is None:
            await self._changed.wait()

    async def run(self) -> None:
        """Keep the wanted model served for ever."""
        await self._slots.end_leftovers()
        if self._held_file.exists():
            self._wish(replace(self._wishes, held=True))
            log.warning("an ML node is still drained, as its operator wished", node=self._node_id)
        self._state_at = trio.current_time()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._follow_the_plan()
        finally:
            self._nursery = self._current = self._standby = self._retiring = None
            self._state, self._state_at = NodeState.STOPPED, trio.current_time()
            self._wake()

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        """Apply the chat template and tokenize."""
        return await self._ready_client().render_chat(messages, tools)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Tokenize a text as a prompt."""
        return await self._ready_client().tokenize(text)

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        """Generate; leaving the context aborts."""
        async with self._ready_client().generate(request) as chunks:
            yield chunks

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        """Log-probabilities of the prompts' tokens."""
        return await self._ready_client().prompt_logprobs(prompts, priority=priority)

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        """Vectors of the prompts."""
        return await self._ready_client().embed(prompts, priority=priority)

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        """What the model says of tokens that somebody claims."""
        return await self._ready_client().prefill(token_ids, first, top=top, priority=priority, drawn=drawn)

    # --- Carrying out what is planned ---------------------------------------------------------------------------------

    async def _follow_the_plan(self) -> None:
        while True:
            changed = self._changed
            wishes = replace(self._wishes, held=self._wishes.held or self._stopping)
            action = plan(self._facts(), wishes)
            if action is not None:
                await self._carry_out(action)
                continue
            with trio.move_on_at(wake_at(self._facts())):
                await changed.wait()

    def _facts(self) -> NodeFacts:
        current, standby = self._current, self._standby
        return NodeFacts(
            state=self._state,
            now=trio.current_time(),
            current=self._failed_choice if current is None else current.run.choice,
            standby=None if standby is None else standby.run.choice,
            standby_ready=standby is not None and standby.ready_at < math.inf,
            standby_retry_at=self._standby_retry_at,
            retiring=self._retiring is not None,
            running_requests=0 if current is None else current.running,
            drain_until=self._drain_until,
            retry_at=self._failures.retry_at,
            given_up=self._failures.given_up,
        )

    async def _carry_out(self, action: Action) -> None:
        """Do what was planned. State changes before anything is waited for, so that no new work is taken meanwhile."""
        if type(action) in STATE_AFTER:
            self._enter(STATE_AFTER[type(action)])
        match action:
            case Load(choice):
                self._load(choice)
            case LoadBeside(choice):
                self._standby = self._open(choice)
                log.info("loading the next model beside", node=self._node_id, model=choice.model_id, cid=choice.cid)
            case Promote():
                self._promote()
            case DropStandby():
                await self._drop_standby()
            case Drain():
                self._begin_to_drain()
            case Stop():
                await self._stop()
            case Settle():
                self._failed_choice = None
            case Resume() | BeginMining() | EndMining():
                pass  # the state is all there is to it

    def _load(self, choice: Choice) -> None:
        if self._failed_choice == choice:
            self.restarts += 1
        else:
            self._failures.forgive()
        self._failed_choice = None
        self._current = self._open(choice)
        log.info("loading a model", node=self._node_id, model=choice.model_id, cid=choice.cid)

    def _promote(self) -> None:
        old = self._current
        self._current, self._standby, self._failed_choice = self._standby, None, None
        if old is not None:
            self._retiring = old
            self._start(self._retire, old)
        running = 0 if old is None else old.running
        log.info("the next model serves now", node=self._node_id, requests_on_the_old=running)

    async def _drop_standby(self) -> None:
        slot, self._standby = self._standby, None
        if slot is not None:
            await slot.end()

    def _begin_to_drain(self) -> None:
        self._drain_until = trio.current_time() + self._drain_seconds
        log.info("an ML node drains", node=self._node_id, running=self.running_requests)
        if self._current is not None:
            self._start(self._wake_when_idle, self._current)

    async def _stop(self) -> None:
        slot = self._current
        if slot is not None:
            if slot.running:
                log.warning("requests are cut off: the time to drain is over", running=slot.running)
            await slot.end()
        self._current = None
        self._wake()
        log.info("an ML node has stopped", node=self._node_id)

    async def _retire(self, slot: Slot) -> None:
        with trio.move_on_after(self._drain_seconds):
            await slot.until_idle()
        if slot.running:
            log.warning("requests on the old model are cut off: the time to drain is over", running=slot.running)
        await slot.end()
        if self._retiring is slot:
            self._retiring = None
        self._wake()

    async def _wake_when_idle(self, slot: Slot) -> None:
        while self._state is NodeState.DRAINING and slot is self._current:
            await slot.until_idle()
            self._wake()
            changed = slot.run.traffic.changed
            await changed.wait()

    # --- Servers ------------------------------------------------------------------------------------------------------

    def _open(self, choice: Choice) -> Slot:
        slot = self._slots.open(choice)
        self._start(self._keep, slot)
        return slot

    def _start(self, function: Callable[[Slot], Awaitable[None]], slot: Slot) -> None:
        if self._nursery is None:
            raise RuntimeError("an engine node plans only while it runs")
        self._nursery.start_soon(function, slot)

    async def _keep(self, slot: Slot) -> None:
        await self._slots.keep(slot, self._became_ready, self._fail)

    def _became_ready(self, slot: Slot) -> None:
        slot.ready_at = trio.current_time()
        log.info("an engine is ready", node=self._node_id, model=slot.run.choice.model_id, engine=slot.run.engine_name)
        if slot is self._current and self._state is NodeState.LOADING:
            self._enter(NodeState.SERVING)
            self._trouble.is_over(slot.run.choice.model_id)
        self._wake()

    def _fail(self, slot: Slot, reason: str, outside: bool) -> None:
        """Note that a server ended by itself, or that its version is `outside` the range."""
        if slot is self._standby:
            self._standby, self._standby_retry_at = None, trio.current_time() + STANDBY_RETRY_SECONDS
            log.error("the next model could not be loaded beside", node=self._node_id, reason=reason)
            self._wake()
        elif slot is self._current:
            self._current, self._failed_choice = None, slot.run.choice
            if outside:
                self._trouble.note_outside(reason)
            else:
                self._trouble.note_failure(slot.ready_at, reason)
            self._enter(NodeState.FAILED)

    def _ready_client(self) -> EngineClient | TextClient:
        slot = self._current
        if self._state not in READY_STATES or slot is None or slot.run.client is None:
            raise EngineFailedError(f"the engine of {self._node_id} takes no work: it is {self._state}")
        return slot.run.client

    def _wish(self, wishes: NodeWishes) -> None:
        if wishes != self._wishes:
            self._wishes = wishes
            self._wake()

    def _enter(self, state: NodeState) -> None:
        if state is not self._state:
            self._state = step(self._state, state)
            self._state_at = trio.current_time()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
