"""The methods of the control socket: their parameters, checked, and what each calls."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node.control.jsonrpc import ErrorCode, RpcError
from node.control.views import (
    AskEvent,
    AskView,
    ConnectView,
    DoctorView,
    EarningsView,
    EpochView,
    ModelsView,
    PeersView,
    StatusView,
    StopView,
    View,
)

PROMPT_CHARACTERS_MAX = 256 * 1024
ASK_SECONDS_MAX = 3600


class Params(BaseModel):
    """Parameters of a method; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NoParams(Params):
    """The method takes none."""


class ChatMessageParams(Params):
    """One message of a conversation."""

    role: str = Field(pattern="^(system|user|assistant)$")
    content: str = Field(max_length=PROMPT_CHARACTERS_MAX)


class AskParams(Params):
    """A question to the network."""

    messages: list[ChatMessageParams] = Field(min_length=1, max_length=256)
    model: str | None = Field(default=None, max_length=64)
    """Without it, the only model that can be asked; an error where there are several."""
    max_tokens: int = Field(default=256, ge=1, le=2**20)
    """Of the answer."""
    on_chain: bool = False
    """Submit the prompt to the InferenceCoordinator contract instead of a gateway."""
    open: bool = False
    """Ask by open prompt: whoever is drawn answers, and is paid when its answer is there."""
    private: bool = False
    """Leave no trace of the prompt with anybody but who answers it."""
    deadline_seconds: float = Field(default=300, gt=0, le=ASK_SECONDS_MAX)


class ConnectParams(Params):
    """A peer to dial."""

    address: str = Field(max_length=512)
    """Multiaddress with peer id."""


Emit = Callable[[View], Awaitable[None]]
"""Tells the caller of something that happened before the answer is complete."""


class Operations(Protocol):
    """What the daemon does for its operator. Methods raise RpcError for what the operator can do something about."""

    async def status(self) -> StatusView:
        """Return the daemon at a glance."""

    async def peers(self) -> PeersView:
        """Return the connected peers."""

    async def models(self) -> ModelsView:
        """Return the models of the registry."""

    async def epoch(self) -> EpochView:
        """Return where the epoch stands."""

    async def earnings(self) -> EarningsView:
        """Return the books."""

    async def ask(self, params: AskParams, emit: Callable[[AskEvent], Awaitable[None]]) -> AskView:
        """Ask the network; `emit` is called with each piece of text."""

    async def doctor(self) -> DoctorView:
        """Check what only the running daemon can check."""

    async def connect(self, params: ConnectParams) -> ConnectView:
        """Dial a peer."""

    async def stop(self) -> StopView:
        """Begin to stop the daemon; returns before it has stopped."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the table: how its parameters are parsed and what it runs."""

    params: type[Params]
    run: Callable[[Any, Emit], Awaitable[View]]


def method_table(operations: Operations) -> dict[str, Method]:
    """Return all methods by name."""

    def plain(run: Callable[[], Awaitable[View]]) -> Method:
        async def call(_params: NoParams, _emit: Emit) -> View:
            return await run()

        return Method(NoParams, call)

    async def connect(params: ConnectParams, _emit: Emit) -> View:
        return await operations.connect(params)

    return {
        "status": plain(operations.status),
        "peers": plain(operations.peers),
        "models": plain(operations.models),
        "epoch": plain(operations.epoch),
        "earnings": plain(operations.earnings),
        "doctor": plain(operations.doctor),
        "stop": plain(operations.stop),
        "ask": Method(AskParams, operations.ask),
        "connect": Method(ConnectParams, connect),
    }


def parse_params(method: Method, params: object) -> Params:
    """Check the parameters of a call; raise RpcError naming each that is wrong."""
    try:
        return method.params.model_validate(params)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'params'}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors()
        )
        raise RpcError(ErrorCode.INVALID_PARAMS, faults) from error
