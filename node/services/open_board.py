"""The open prompts that live, and their answers, as gossip brings them: who may say what, and what is kept of it.

Everything is bounded: prompts in all and of one payer, one answer of each executor that was drawn. What is old, early,
late, or said twice is not passed on; nobody is blamed for what an honest node with another clock, or a block behind,
would do as well.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
import trio

from node.ports import Chain, Validity, WallClock
from node.protocol.cids import CidError, cid_to_bytes
from node.protocol.identifiers import Address, RequestId
from node.protocol.messages import Message
from node.protocol.open_prompts import (
    ARRIVAL_SECONDS_MAX,
    Answered,
    AnswerFault,
    OpenAnswer,
    OpenPrompt,
    Posted,
    answer_fault,
    draw_order,
    keeps_order,
    winning_answer,
)
from node.protocol.records import ModelRecord
from node.services.epochs import EpochBook
from node.services.gossip import GossipRouter
from node.services.presence import PresenceTable

log = structlog.get_logger(__name__)

PROMPTS_MAX = 4096
"""A few MiB."""
PROMPTS_PER_PAYER_MAX = 256
WAITING_PER_PAYER_MAX = 8
"""Of those, without an answer yet: executors work for each of them. One account costs gas and a registration: whoever
floods the board fills its own places only."""
KEPT_SECONDS = 60
"""How long a prompt stays after its last turn, for answers on their way and to recognise it when it is said again."""
BLAMED = frozenset({AnswerFault.BAD_SIGNATURE, AnswerFault.OTHER_REQUEST})
"""What no honest executor sends, whatever its clock says."""


@dataclass(slots=True)
class Entry:
    """A prompt on the board. `model` is frozen for its epoch."""

    posted: Posted
    model: ModelRecord
    answers: dict[Address, Answered] = field(default_factory=dict)
    unusable: set[Address] = field(default_factory=set)
    """Those whose answer this node could not get, or found not to be what its receipt says."""
    changed: trio.Event = field(default_factory=trio.Event)
    """Set when an answer comes; then there is a new one."""


class OpenBoard:
    """Judges, keeps and hands on. Registers with the router when it is made."""

    def __init__(
        self, chain: Chain, epochs: EpochBook, presence: PresenceTable, router: GossipRouter, wall_clock: WallClock
    ) -> None:
        self._chain = chain
        self._epochs = epochs
        self._presence = presence
        self._wall_clock = wall_clock
        self._entries: dict[RequestId, Entry] = {}
        self._taken = trio.Event()
        self._listeners: list[Callable[[Entry], None]] = []
        router.register(OpenPrompt, self._judge_prompt, self._take_prompt)
        router.register(OpenAnswer, self._judge_answer, self._take_answer)

    def on_posted(self, listener: Callable[[Entry], None]) -> None:
        """Have `listener` told of each prompt that comes, before anything else happens. It must not block."""
        self._listeners.append(listener)

    def entry(self, request_id: RequestId) -> Entry | None:
        """Return a prompt that lives, or lived until lately."""
        return self._entries.get(request_id)

    async def until_posted(self, request_id: RequestId) -> Entry:
        """Wait for a prompt: one's own comes round through gossip like any other."""
        while (entry := self._entries.get(request_id)) is None:
            await self._taken.wait()
        return entry

    def __len__(self) -> int:
        return len(self._entries)

    def winner(self, entry: Entry) -> Answered | None:
        """Return the answer that is paid, as far as answers have come and are of use."""
        usable = [answered for executor, answered in entry.answers.items() if executor not in entry.unusable]
        return winning_answer(entry.posted, usable, entry.model, self._chain.parameters.unit_price)

    def _judge_prompt(self, message: Message) -> Validity:
        body, now = message.body, self._wall_clock()
        if not isinstance(body, OpenPrompt):
            return Validity.REJECT
        try:
            cid_to_bytes(body.prompt_cid)
        except CidError:
            return Validity.REJECT
        self._forget(now)
        posted = Posted(message.sender, message.at, body)
        group = self._epochs.group()
        known = body.request_id in self._entries
        lives = message.at <= now + ARRIVAL_SECONDS_MAX and now < posted.deadline
        if known or not lives or body.epoch != group.epoch or self._presence.record_of(message.sender) is None:
            return Validity.IGNORE
        order = draw_order(body.request_id, group, body.model_id)
        if group.get_epoch_model(body.model_id) is None or not keeps_order(body.drawn, order):
            return Validity.IGNORE  # this node's idea of the group may be the older one
        return Validity.ACCEPT if self._has_room(message.sender) else Validity.IGNORE

    def _has_room(self, payer: Address) -> bool:
        now = self._wall_clock()
        own = [entry for entry in self._entries.values() if entry.posted.payer == payer]
        waiting = sum(not entry.answers and now < entry.posted.deadline for entry in own)
        return len(self._entries) < PROMPTS_MAX and len(own) < PROMPTS_PER_PAYER_MAX and waiting < WAITING_PER_PAYER_MAX

    def _take_prompt(self, message: Message) -> None:
        body = message.body
        if not isinstance(body, OpenPrompt) or body.request_id in self._entries or not self._has_room(message.sender):
            return  # others came since it was judged
        model = self._epochs.group().get_epoch_model(body.model_id)
        if model is None:
            return  # an epoch began since it was judged
        entry = Entry(Posted(message.sender, message.at, body), model)
        self._entries[body.request_id] = entry
        self._taken.set()
        self._taken = trio.Event()
        for listener in self._listeners:
            listener(entry)

    def _judge_answer(self, message: Message) -> Validity:
        body, now = message.body, self._wall_clock()
        if not isinstance(body, OpenAnswer):
            return Validity.REJECT
        try:
            cid_to_bytes(body.result_cid)
        except CidError:
            return Validity.REJECT
        entry = self._entries.get(body.receipt.receipt.request_id)
        if entry is None or message.sender in entry.answers:
            return Validity.IGNORE
        if abs(now - message.at) > ARRIVAL_SECONDS_MAX:
            return Validity.IGNORE  # dated back or forth, or held back: it might belong to another turn
        answered = Answered(message.sender, message.at, body)
        fault = answer_fault(entry.posted, answered, entry.model, self._chain.parameters.unit_price)
        if fault is None:
            return Validity.ACCEPT
        log.info("an answer to an open prompt is not counted", executor=message.sender, reason=fault.value)
        return Validity.REJECT if fault in BLAMED else Validity.IGNORE

    def _take_answer(self, message: Message) -> None:
        body = message.body
        if not isinstance(body, OpenAnswer):
            return
        entry = self._entries.get(body.receipt.receipt.request_id)
        if entry is not None and message.sender not in entry.answers:
            entry.answers[message.sender] = Answered(message.sender, message.at, body)
            entry.changed.set()
            entry.changed = trio.Event()

    def _forget(self, now: int) -> None:
        """Let go of what is over."""
        over = [identity for identity, entry in self._entries.items() if entry.posted.deadline + KEPT_SECONDS < now]
        for identity in over:
            del self._entries[identity]
