"""Peers as services see them: gossip and calls, in verified messages."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from node.protocol.identifiers import PeerId
from node.protocol.messages import Message, MessageBody, Topic


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
