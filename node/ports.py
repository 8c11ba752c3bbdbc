"""The ports: the few interfaces through which services see the world. Real adapters and the simulator implement them.

Nothing here is libp2p, vLLM, EVM or SQLite; everything is in the records of `node.protocol`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from node.protocol.actions import ChainAction
from node.protocol.chain_state import ChainState
from node.protocol.dossiers import AnswerEvidence, VectorEvidence
from node.protocol.draws import Drawn, Prefill
from node.protocol.identifiers import (
    Address,
    BlockNumber,
    Cid,
    EpochNumber,
    Hash32,
    ModelId,
    NodeId,
    PeerId,
    RequestId,
    TokenAmount,
)
from node.protocol.messages import Message, MessageBody, Topic
from node.protocol.records import EpochParameters, SignedReceipt, Voucher
from node.protocol.sampling import SamplingParameters, TokenLogprobs
from node.protocol.schedules import ParameterSchedule
from node.protocol.sealed_content import SealedContent
from node.protocol.stages import Stage

# --- Chain ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain stands: the newest block, and the newest one deep enough to act on."""

    number: BlockNumber
    confirmed: BlockNumber


class ActionStatus(Enum):
    """How far an intent has come."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ActionOutcome:
    """The end of an intent. `reason` says why it failed, in the contract's own error where there is one."""

    status: ActionStatus
    transaction_hash: Hash32 | None
    gas_used: int
    reason: str


@dataclass(frozen=True, slots=True)
class StageChange:
    """A stage of an epoch began, with `first_block`, which is confirmed."""

    epoch: EpochNumber
    stage: Stage
    first_block: BlockNumber


class Chain(Protocol):
    """The chain as services use it. Reading is free and immediate; writing is exactly once by key."""

    @property
    def account(self) -> Address:
        """The account that sends this daemon's transactions: its participant."""

    @property
    def chain_id(self) -> int:
        """EIP-155 chain id, part of every EIP-712 domain."""

    @property
    def parameters(self) -> EpochParameters:
        """The parameters that hold at the newest block: enough for what happens within its epoch."""

    @property
    def schedule(self) -> ParameterSchedule:
        """The parameters of all epochs, by the confirmed chain: for what looks beyond the present one."""

    @property
    def epoch_manager(self) -> Address:
        """Contract that verifies epoch results (EIP-712 verifying contract)."""

    @property
    def payment_channels(self) -> Address:
        """Contract that verifies vouchers (EIP-712 verifying contract)."""

    @property
    def slashing(self) -> Address:
        """Contract that verifies verdicts on offences (EIP-712 verifying contract)."""

    @property
    def head(self) -> Head:
        """The newest head seen; never blocks."""

    @property
    def state(self) -> ChainState:
        """The fold of all confirmed events. Read only."""

    async def state_at(self, block: BlockNumber) -> ChainState:
        """Return the fold of all events up to and including `block`, which must be confirmed."""

    def heads(self) -> AsyncIterator[Head]:
        """Yield the head now and after every change of it; a slow reader sees the newest, not each."""

    def stage_changes(self, consumer: str) -> AsyncIterator[StageChange]:
        """Yield each change of stage on the confirmed chain once, in order, however fast blocks come.

        A change counts as handled when the consumer asks for the next: after a crash before that it comes again. The
        place is kept under the name `consumer`, over restarts; a new consumer begins with the present stage.
        """

    async def block_hash(self, block: BlockNumber) -> Hash32:
        """Return the hash of `block` once it is confirmed; waits for that."""

    async def submit(self, key: str, action: ChainAction) -> None:
        """Store the intent durably; it is sent exactly once for `key`, across restarts. Same key: no effect."""

    async def is_overtaken(self, action: ChainAction, *, in_a_block: bool = False) -> bool:
        """Whether somebody else did what `action` would do, in a block that may not be confirmed yet or in one to come;
        with `in_a_block`, only in one that is there. What is to come may never come, at no cost to who promised it.

        To be asked right before it is submitted. False where nobody knows: then it is sent, and may be refused.
        """

    async def outcome(self, key: str) -> ActionOutcome:
        """Wait until the intent `key` is confirmed or has failed for good."""

    async def token_balance(self, account: Address) -> TokenAmount:
        """Tokens of `account` at the newest block."""

    async def gas_price(self) -> int:
        """Wei per gas that a transaction sent now would cost; 0 if nobody knows."""

    def sign(self, digest: Hash32) -> bytes:
        """Sign a digest with the account key (65 bytes). Callers record duties before signing: see Store."""


# --- Network ----------------------------------------------------------------------------------------------------------


class Validity(Enum):
    """A gossip validator's judgement."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    """Not forwarded, sender not blamed (too old, unknown version, not yet known)."""
    REJECT = "reject"
    """Not forwarded, sender penalised."""


class CallFailedError(Exception):
    """A call to a peer failed; `code` is a short word from the peer or `unreachable`, `deadline`, `lost`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


TakeChunk = Callable[[bytes], bool]
"""Takes a chunk without waiting and returns True, or leaves it and returns False. Raises nothing."""


class Call(Protocol):
    """One call over the long-lived stream between two peers, seen from either end. Chunks keep their order."""

    @property
    def peer_id(self) -> PeerId:
        """The other end."""

    @property
    def payload(self) -> bytes:
        """What the call was opened with."""

    async def send(self, data: bytes) -> None:
        """Send a chunk; waits for the other end's credit. Raises CallFailedError."""

    @property
    def may_send_now(self) -> bool:
        """Whether a chunk can be sent without waiting."""

    def send_now(self, data: bytes) -> None:
        """Send a chunk without waiting. Only while `may_send_now`. A connection that is lost, the next call tells."""

    async def receive(self) -> bytes:
        """Return the next chunk; raise trio.EndOfChannel at the other side's normal end, CallFailedError otherwise."""

    def hand_to(self, take_now: TakeChunk) -> None:
        """Offer each chunk that comes while `receive` waits to `take_now`, which does not wait; those that it takes
        are not returned.
        """


CallHandler = Callable[[Call], Awaitable[None]]
"""Serves one call. Returning ends it normally; raising CallFailedError tells the caller code and message."""

MessageValidator = Callable[[PeerId, Message], Validity]
"""Judges meaning (right to say it, epoch, time) after size, schema and signature were checked. Must not block."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A connected peer."""

    peer_id: PeerId
    address: str
    latency_ms: int | None


class Network(Protocol):
    """Gossip and calls between peers, in verified messages."""

    @property
    def peer_id(self) -> PeerId:
        """This node's peer id."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddresses (with peer id) at which this node can be dialled."""

    def peers(self) -> tuple[PeerStatus, ...]:
        """Connected peers."""

    def sign_as_peer(self, data: bytes) -> bytes:
        """Sign with the libp2p key (Ed25519), to bind peer and account."""

    async def publish(self, body: MessageBody, *, urgent: bool = False) -> None:
        """Seal a message body (node.protocol.messages) with the account key and gossip it on its topic.

        One's own subscriber judges it at once; what it does not accept goes nowhere. Peers get it with the topic's next
        message, within a second; now, if it is `urgent`: for what has a deadline on chain within seconds.
        """

    def subscribe(
        self, topic: Topic, validator: MessageValidator
    ) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """Deliver verified messages of `topic`, one's own included. One subscriber per topic."""

    def serve(self, method: str, handler: CallHandler, *, concurrency: int) -> None:
        """Answer calls of `method`; calls beyond `concurrency` are refused with code `busy`."""

    def call(
        self, peer: PeerId, method: str, payload: bytes, *, deadline_seconds: float
    ) -> AbstractAsyncContextManager[Call]:
        """Open a call; leaving the context cancels the handler at the other end. Raises CallFailedError."""


# --- Content ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Provider:
    """Where content may be had: the content gateway of a peer."""

    host: str
    port: int


class ContentUnavailableError(Exception):
    """No provider had valid bytes for a CID; the message names what was tried."""


class ContentNotHeldError(ContentUnavailableError):
    """This node's own disk or store could not take what was to be fetched: nobody else is to blame."""


class BadContentError(ValueError):
    """Verified bytes that are no file, or one that is too large: whoever gives them, the CID names nothing else."""


class Content(Protocol):
    """Content by CID. Whatever this returns was verified against its CID."""

    async def add_bytes(self, data: bytes) -> Cid:
        """Store `data`; return its CID. Raises OSError if the disk or the store's limit leave no room: an operator may
        make some.

        When room is needed, what was not used for a week makes it, unless it is kept (`keep`).
        """

    async def keep(self, cid: Cid, until: EpochNumber) -> None:
        """Hold `cid`, which is here, through epoch `until`, whatever else wants its room. Nothing where it is not here.

        Raises OSError.
        """

    async def forget(self, epoch: EpochNumber, named: Collection[Cid]) -> None:
        """Remove what was kept until an epoch before `epoch`, and of `named` what was fetched; but not what is kept for
        longer or for another reason. Raises OSError.
        """

    async def read_bytes(self, cid: Cid, providers: Sequence[Provider], *, limit_bytes: int) -> bytes:
        """Return the file `cid`, fetching it if needed.

        What is fetched may make room for other content at any time, unless it is kept (`keep`). Raises
        ContentUnavailableError (it may come yet; ContentNotHeldError where this node's own disk is to blame), and
        BadContentError: only that says anything of the content.
        """

    async def has(self, cid: Cid) -> bool:
        """Whether all of `cid` is held locally."""


# --- Sealing ----------------------------------------------------------------------------------------------------------


class SealingError(Exception):
    """Something cannot be sealed for a reader, or was not sealed for this node, or is damaged. Quotes no content."""


class Sealing(Protocol):
    """Content that only chosen readers can read."""

    @property
    def public_key(self) -> bytes:
        """This node's X25519 key: who has it can seal for this node."""

    def seal_for_peers(self, data: bytes, model_id: ModelId, peers: Sequence[PeerId]) -> SealedContent:
        """Seal for the nodes with these peer ids. Raises SealingError."""

    def seal_for_key(self, data: bytes, model_id: ModelId, public_key: bytes) -> SealedContent:
        """Seal for whoever has the private key to an X25519 key. Raises SealingError."""

    def open(self, sealed: SealedContent, model_id: ModelId) -> bytes:
        """Return what was sealed for this node and this model. Raises SealingError."""


# --- Engine -----------------------------------------------------------------------------------------------------------


class EngineFailedError(Exception):
    """The engine died, wedged or answered nonsense: the request may be retried elsewhere."""


class EngineRefusedError(Exception):
    """The engine refused the request itself: retrying elsewhere will not help."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation. The fields that only tools need are empty elsewhere."""

    role: str
    content: str
    name: str = ""
    tool_call_id: str = ""
    tool_calls: str = ""
    """A JSON array in OpenAI's shape."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to generate from token ids."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParameters
    seed: int
    stop: tuple[str, ...]
    """Texts that end the answer. The one that does is part of the text: who shows it cuts it off (stops.py)."""
    priority: int
    """Lower runs first: 0 for users, 10 for mining and audits."""
    logprobs: int | None = None
    """Alternatives per token to tell the log-probabilities of; None for none at all."""
    response_format: str = ""
    """What the answer must look like: JSON in OpenAI's shape of `response_format`, or empty."""
    private: bool = False
    """Nothing of it is logged, and no other request can find out from the engine's cache that it was there."""

    @property
    def is_verifiable(self) -> bool:
        """Whether there is a rule that gives its tokens: a format bars tokens, which no auditor knows."""
        return self.sampling.is_verifiable and not self.response_format


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """Some tokens of an answer. The last chunk, and only it, has a finish reason (`stop` or `length`)."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, if the request asked for them."""


@runtime_checkable
class PushedChunks(Protocol):
    """The chunks of a generation where the engine's way is to hand them over, many streams in one turn."""

    async def push_to(self, take: Callable[[Sequence[GenerationChunk]], bool]) -> None:
        """Hand what comes together to `take` until the end, or until that returns False. Instead of iterating.

        `take` is called in any task, and must not block. Raises what `take` raises, and what iterating would.
        """


class Engine(Protocol):
    """One ML node: an engine that serves one model at a time."""

    @property
    def node_id(self) -> NodeId:
        """The ML node's name."""

    @property
    def model_id(self) -> ModelId | None:
        """The model that is loaded and ready, or None."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids run from 0 to this, exclusive. Only meaningful while a model is ready."""

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        """Apply the model's chat template and tokenize, ready for generation. `tools`: JSON array, or empty."""

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text`, with those that the model wants before any text."""

    def generate(self, request: GenerationRequest) -> AbstractAsyncContextManager[AsyncIterator[GenerationChunk]]:
        """Generate; leaving the context aborts the generation at the engine."""

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        """For each prompt, the natural-log probabilities of its tokens 1..L-1 given those before them."""

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        """Return a vector for each prompt (float32, little-endian), all of one length.

        Raises EngineRefusedError if the model that is loaded answers in words.
        """


@runtime_checkable
class RuleFollower(Protocol):
    """An engine that knows whether it draws by the network's rule. One that does not say so is believed to."""

    @property
    def draws_by_rule(self) -> bool:
        """Whether its tokens are those of the rule: else its answers are signed as such that no audit can check."""


@runtime_checkable
class Prefiller(Protocol):
    """An engine that can check tokens of others: what an audit, or a user with a receipt, needs."""

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        """For each token from place `first` (1 or more) on, what the model says of it and of the `top` likeliest.

        And of the rule's winner, where the engine can tell and a draw as in `drawn` may have an unlikely one.
        """


# --- Store ------------------------------------------------------------------------------------------------------------


class EquivocationError(Exception):
    """A duty was already done with another content: signing this one could be slashed."""


@dataclass(frozen=True, slots=True)
class SignedVoucher:
    """A voucher with its payer's signature."""

    payer: Address
    payee: Address
    voucher: Voucher
    signature: bytes


class Store(Protocol):
    """Durable books. Every method returns only when its effect would survive kill -9; of vouchers and receipts, which
    come often, `durable` tells when it would survive the loss of power too.
    """

    async def durable(self) -> None:
        """Wait until all that was saved so far survives the loss of power: before it has an effect elsewhere."""

    def record_duty(self, duty: str, digest: Hash32) -> None:
        """Remember what is about to be signed for `duty` (e.g. `votes/7`), before it is signed.

        Same digest again: no effect. Another digest: EquivocationError, and nothing must be signed.
        """

    def issued_voucher(self, channel_id: Hash32) -> SignedVoucher | None:
        """The newest voucher this node signed as payer."""

    def save_issued_voucher(self, signed: SignedVoucher) -> None:
        """Write a voucher; it leaves this node after `durable`. Refuses (ValueError) one below the newest."""

    def received_voucher(self, channel_id: Hash32) -> SignedVoucher | None:
        """The newest voucher this node holds as payee."""

    def save_received_voucher(self, signed: SignedVoucher) -> None:
        """Write a verified voucher; tokens are released for it after `durable`.

        Refuses (ValueError) one below the newest.
        """

    def received_vouchers(self) -> tuple[SignedVoucher, ...]:
        """The newest voucher of each channel this node is paid from."""

    def save_receipt(
        self,
        signed: SignedReceipt,
        answer: AnswerEvidence | VectorEvidence | None = None,
        *,
        answers_kept_max: int = 0,
    ) -> None:
        """Keep a receipt this node gave or got; again, only if both sides signed it and not the one that is kept.

        With it, the `answer` of this node's user, and the newest `answers_kept_max` of all.
        """

    def receipts_of(self, request_id: RequestId) -> tuple[SignedReceipt, ...]:
        """All receipts of one request, in order: several where executors failed."""

    def answer_of(self, request_id: RequestId, executor: Address) -> AnswerEvidence | VectorEvidence | None:
        """What a receipt of this node's user is about, if it is kept."""

    def receipts(self, *, limit: int) -> tuple[SignedReceipt, ...]:
        """The newest receipts, newest first."""

    def newest_given(self) -> int:
        """The number of the newest receipt of this executor; they are numbered in order. 0 if there is none."""

    def receipts_given(self, *, after: int, limit: int) -> tuple[tuple[int, SignedReceipt], ...]:
        """Receipts of this executor with a number above `after`, with their numbers, oldest first."""

    def receipts_got(self, *, before: int | None, limit: int) -> tuple[tuple[SignedReceipt, ...], int]:
        """Of the `limit` receipts with a number below `before`, or of the newest, those of other executors, newest
        first; and the `before` of the next ones, 0 if there are none."""

    def receipt_totals(self) -> tuple[int, int, TokenAmount]:
        """(answers, output tokens, price) over all receipts of this executor that their payers signed."""

    def save_evidence(self, participant: Address, at: int, code: str, data: bytes) -> None:
        """Keep what `participant` did wrong, at `at` (UNIX seconds). Bounded for each and for all: the oldest goes."""

    def evidence(self, *, limit: int, participant: Address | None = None) -> tuple[bytes, ...]:
        """The newest evidence, newest first; of one participant, or of all."""

    def save_statement(self, epoch: EpochNumber, member: Address, data: bytes) -> None:
        """Keep what `member` said about the result of `epoch`; what was said of epochs before the last one goes."""

    def statements(self) -> tuple[tuple[Address, bytes], ...]:
        """What members said, with who said it: epoch by epoch, in the order in which it came."""

    def put_document(self, key: str, data: bytes) -> None:
        """Keep a small document under a key (e.g. the last EpochResult); replaces."""

    def put_documents(self, documents: Mapping[str, bytes]) -> None:
        """Keep documents by their keys, all or none, without waiting for the disk: the loss of power undoes what was
        put since `durable`, or since anything was put by `put_document`."""

    def get_document(self, key: str) -> bytes | None:
        """Return a document or None."""

    def document_keys(self, prefix: str) -> tuple[str, ...]:
        """The keys of all documents that begin so, ascending."""

    def forget_document(self, key: str) -> None:
        """Forget a document, if there is one. What the loss of power brings back is only forgotten once more."""


# --- Clock ------------------------------------------------------------------------------------------------------------

WallClock = Callable[[], int]
"""UNIX seconds; injected, so that the simulator's virtual time reaches message times and expiries."""
