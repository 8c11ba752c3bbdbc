"""The prompts this node has asked, on chain and by gossip: their states, kept over restarts. No text is in them."""

from dataclasses import dataclass, replace
from enum import Enum

import structlog
import trio

from node.ports import Store
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, Cid, Hash32, ModelId, PeerId, TokenAmount
from node.protocol.records import SignedReceipt

log = structlog.get_logger(__name__)

ASKS_MAX = 128
"""Kept; beyond that the oldest that have ended go, and nothing new is taken while all of them run."""
KEY = "prompts/asked"


class AskMode(Enum):
    """How a prompt is asked."""

    CHAIN = "chain"
    OPEN = "open"


class AskState(Enum):
    """How far a prompt has come."""

    POSTING = "posting"
    """Its transaction, or the channels it is to be paid over, are not confirmed yet."""
    WAITING = "waiting"
    """It is out; no answer yet."""
    PAYING = "paying"
    """The one answer that is paid was chosen. Prompts on chain are paid by the contract, later."""
    ANSWERED = "answered"
    FAILED = "failed"
    RECLAIMED = "reclaimed"
    """Nobody answered on chain in time; the escrow is back."""


ENDED = frozenset({AskState.ANSWERED, AskState.FAILED, AskState.RECLAIMED})


@dataclass(frozen=True, slots=True)
class PromptAsk:
    """One prompt."""

    ask_id: str
    mode: AskMode
    model_id: ModelId
    max_tokens: int
    private: bool
    asked_at: int
    """UNIX seconds."""
    owner: str = ""
    """The API key it was handed in with, by id; empty without one."""
    state: AskState = AskState.POSTING
    reason: str = ""
    """Why it failed."""
    prompt_cid: Cid | None = None
    prompt_id: int | None = None
    """On chain."""
    transaction_hash: Hash32 | None = None
    executor: Address | None = None
    executor_peer: PeerId | None = None
    result_cid: Cid | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    price: TokenAmount = TokenAmount(0)  # noqa: RUF009 - an int
    receipt: SignedReceipt | None = None
    paid_before: TokenAmount | None = None
    """Of open prompts: total of the vouchers for the executor when its answer was chosen."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class _Asks:
    items: tuple[PromptAsk, ...]


class AskBook:
    """All of them, oldest first; written down at every change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asks = {ask.ask_id: ask for ask in self._load()}
        self._changed = trio.Event()

    def get(self, ask_id: str) -> PromptAsk | None:
        """Return a prompt by its id."""
        return self._asks.get(ask_id)

    def all(self) -> tuple[PromptAsk, ...]:
        """All prompts, oldest first."""
        return tuple(self._asks.values())

    def add(self, ask: PromptAsk) -> bool:
        """Take a new prompt; return False if there is no room."""
        if len(self._asks) >= ASKS_MAX:
            oldest = next((ask_id for ask_id, known in self._asks.items() if known.has_ended), None)
            if oldest is None:
                return False
            del self._asks[oldest]
        self.put(ask)
        return True

    def put(self, ask: PromptAsk) -> None:
        """Replace a prompt; whoever waits for a change is woken."""
        self._asks[ask.ask_id] = ask
        self._store.put_document(KEY, to_bytes(_Asks(tuple(self._asks.values()))))
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Wait until any prompt changes."""
        await self._changed.wait()

    def _load(self) -> tuple[PromptAsk, ...]:
        data = self._store.get_document(KEY)
        try:
            return from_bytes(_Asks, data).items if data is not None else ()
        except SchemaError as error:
            log.warning("prompts asked by an older version are forgotten", reason=str(error))
            return ()


def failed(ask: PromptAsk, reason: str) -> PromptAsk:
    """Return the prompt as failed."""
    return replace(ask, state=AskState.FAILED, reason=reason)
