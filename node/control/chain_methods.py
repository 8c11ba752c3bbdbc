"""The control socket's methods about the chain: their parameters, checked, and what each calls."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, Protocol

from pydantic import Field

from node.control.chain_views import (
    ChainDoneView,
    ChainParticipantsView,
    ChainProgress,
    ChainStatusView,
    ChannelsView,
    CollateralView,
    IntentsView,
    PromptsView,
)
from node.control.methods import Emit, Method, NoParams, Params
from node.control.views import View

Amount = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,37}$")]
"""Decimal text in base units, above zero; the contracts' amounts have 128 bits."""
AccountText = Annotated[str, Field(max_length=64)]
"""Whether it is one, with its checksum, is judged with the wish: money depends on it."""


class IntentsParams(Params):
    """Which part of the outbox."""

    all: bool = False
    """Those that are done or have failed as well."""


class DepositCollateralParams(Params):
    """Post collateral."""

    kind: Literal["deposit-collateral"] = "deposit-collateral"
    amount: Amount


class UnbondCollateralParams(Params):
    """Ask for collateral back."""

    kind: Literal["unbond-collateral"] = "unbond-collateral"
    amount: Amount


class WithdrawCollateralParams(Params):
    """Take what has unbonded."""

    kind: Literal["withdraw-collateral"] = "withdraw-collateral"


class RequestChannelParams(Params):
    """Announce that a channel will be emptied."""

    kind: Literal["request-channel"] = "request-channel"
    payee: AccountText


class WithdrawChannelParams(Params):
    """Empty a channel whose withdrawal was announced."""

    kind: Literal["withdraw-channel"] = "withdraw-channel"
    payee: AccountText


class DisputePromptParams(Params):
    """Dispute an answer on chain."""

    kind: Literal["dispute-prompt"] = "dispute-prompt"
    prompt_id: int = Field(ge=0)
    reason_cid: str = Field(min_length=1, max_length=128)


class SponsorParams(Params):
    """Put work coins into the pot."""

    kind: Literal["sponsor"] = "sponsor"
    amount: Amount


class UnregisterParams(Params):
    """Give up the registration."""

    kind: Literal["unregister"] = "unregister"


Wish = (
    DepositCollateralParams
    | UnbondCollateralParams
    | WithdrawCollateralParams
    | RequestChannelParams
    | WithdrawChannelParams
    | DisputePromptParams
    | SponsorParams
    | UnregisterParams
)
"""What an operator may have the daemon do on chain."""


class DoParams(Params):
    """One wish."""

    wish: Wish = Field(discriminator="kind")


class ChainOperations(Protocol):
    """What the daemon shows and does on chain for its operator. Methods raise RpcError for what can be acted on."""

    async def status(self) -> ChainStatusView:
        """Return the chain at a glance."""

    async def intents(self, params: IntentsParams) -> IntentsView:
        """Return the outbox."""

    async def participants(self) -> ChainParticipantsView:
        """Return all participants."""

    async def collateral(self) -> CollateralView:
        """Return this account's collateral."""

    async def channels(self) -> ChannelsView:
        """Return this account's payment channels."""

    async def prompts(self) -> PromptsView:
        """Return this account's prompts."""

    async def carry_out(self, wish: Wish, emit: Callable[[ChainProgress], Awaitable[None]]) -> ChainDoneView:
        """Do what is wished, and wait until it is confirmed; `emit` is called with each step."""


def chain_method_table(operations: ChainOperations) -> dict[str, Method]:
    """Return all methods by name."""

    def plain(run: Callable[[], Awaitable[View]]) -> Method:
        async def call(_params: NoParams, _emit: Emit) -> View:
            return await run()

        return Method(NoParams, call)

    async def intents(params: IntentsParams, _emit: Emit) -> View:
        return await operations.intents(params)

    async def carry_out(params: DoParams, emit: Emit) -> View:
        return await operations.carry_out(params.wish, emit)

    return {
        "chain_status": plain(operations.status),
        "chain_intents": Method(IntentsParams, intents),
        "chain_participants": plain(operations.participants),
        "chain_collateral": plain(operations.collateral),
        "chain_channels": plain(operations.channels),
        "chain_prompts": plain(operations.prompts),
        "chain_do": Method(DoParams, carry_out),
    }
