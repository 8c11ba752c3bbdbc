"""Announcements and receipts in batches: one signature of ours for those of about a second, whatever the load.

The network sends at most one message per topic and second anyway (see docs/protocol.md); what is saved here is an
envelope and an account's signature, to be checked by everyone, for each of them.
"""

from collections import deque

import structlog
import trio

from node.ports import Network, Validity
from node.protocol.messages import (
    RECEIPTS_PER_MESSAGE_MAX,
    Message,
    PromptAnnouncement,
    PromptAnnouncements,
    Receipts,
)
from node.protocol.records import SignedReceipt
from node.services.gossip import GossipRouter
from node.services.presence import PresenceTable

log = structlog.get_logger(__name__)

BATCH_SECONDS = 1.0
WAITING_MAX = 4096
"""Items waiting; beyond that the oldest are dropped: announcements inform, nothing depends on them."""


class BatchService:
    """Collects announcements and receipts and publishes them; passes on those of others."""

    def __init__(self, network: Network, router: GossipRouter, presence: PresenceTable) -> None:
        self._network = network
        self._presence = presence
        self._prompts: deque[PromptAnnouncement] = deque(maxlen=WAITING_MAX)
        self._receipts: deque[SignedReceipt] = deque(maxlen=WAITING_MAX)
        router.register(PromptAnnouncements, self._judge, _pass_on)
        router.register(Receipts, self._judge, _pass_on)

    def announce(self, prompt: PromptAnnouncement) -> None:
        """Publish with the next batch."""
        self._prompts.append(prompt)

    def add_receipt(self, receipt: SignedReceipt) -> None:
        """Publish with the next batch."""
        self._receipts.append(receipt)

    async def run(self) -> None:
        """Publish what has come together, every BATCH_SECONDS."""
        while True:
            await trio.sleep(BATCH_SECONDS)
            prompts = [self._prompts.popleft() for _ in range(min(len(self._prompts), RECEIPTS_PER_MESSAGE_MAX))]
            if prompts:
                await self._network.publish(PromptAnnouncements(tuple(prompts)))
            receipts = [self._receipts.popleft() for _ in range(min(len(self._receipts), RECEIPTS_PER_MESSAGE_MAX))]
            if receipts:
                await self._network.publish(Receipts(tuple(receipts)))

    def _judge(self, message: Message) -> Validity:
        """From participants that are here, at most RECEIPTS_PER_MESSAGE_MAX items."""
        body = message.body
        if isinstance(body, PromptAnnouncements | Receipts) and len(body.items) > RECEIPTS_PER_MESSAGE_MAX:
            return Validity.REJECT
        if isinstance(body, Receipts) and any(item.receipt.executor != message.sender for item in body.items):
            return Validity.REJECT
        return Validity.IGNORE if self._presence.record_of(message.sender) is None else Validity.ACCEPT


def _pass_on(_message: Message) -> None:
    """Nothing here depends on them yet; audits will."""
