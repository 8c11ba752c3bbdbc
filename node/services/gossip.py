"""One subscriber per topic: judges who may say what, and hands messages to the services that asked for their kind."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from node.ports import Network, Validity
from node.protocol.identifiers import PeerId
from node.protocol.messages import BODY_TYPES, Message, Topic

log = structlog.get_logger(__name__)

Judge = Callable[[Message], Validity]
Take = Callable[[Message], None]


@dataclass(frozen=True, slots=True)
class Interest:
    """What a service wants of one kind of message. Neither may block."""

    judge: Judge
    take: Take


class GossipRouter:
    """Registered interests, one per kind, and the tasks that feed them. Kinds nobody wants are judged IGNORE."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._interests: dict[type, Interest] = {}

    def register(self, kind: type, judge: Judge, take: Take) -> None:
        """Hand messages whose body is a `kind` to `take`, if `judge` accepts them. Before `run` only."""
        if kind in self._interests:
            raise ValueError(f"{kind.__name__} has an owner already")
        self._interests[kind] = Interest(judge, take)

    async def run(self) -> None:
        """Receive for ever."""
        async with trio.open_nursery() as nursery:
            for topic in Topic:
                if any(kind_topic is topic and kind in self._interests for kind_topic, kind in BODY_TYPES.values()):
                    nursery.start_soon(self._receive, topic)

    async def _receive(self, topic: Topic) -> None:
        async with self._network.subscribe(topic, self._judge) as messages:
            async for message in messages:
                self._interests[type(message.body)].take(message)

    def _judge(self, _peer: PeerId, message: Message) -> Validity:
        interest = self._interests.get(type(message.body))
        return Validity.IGNORE if interest is None else interest.judge(message)
