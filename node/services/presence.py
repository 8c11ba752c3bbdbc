"""Who is here: each participant says so every few seconds, what it serves and where its content is."""

from collections.abc import Callable, Sequence

import structlog
import trio

from node.ports import Chain, Network, Provider, Validity, WallClock
from node.protocol.hosts import is_host
from node.protocol.identifiers import Address, ModelId
from node.protocol.messages import PRESENCE_SECONDS_MAX, Message, Presence
from node.services.gossip import GossipRouter
from node.services.seeding import Announcement

log = structlog.get_logger(__name__)

PRESENCE_SECONDS = 45
"""Life of a record. A dead node is asked in vain for at most this long."""
ANNOUNCE_SECONDS = 10.0
"""Four records fit into one life: three lost messages do not make a node vanish."""
FUTURE_SECONDS_MAX = 30
"""A record from further in the future would outlive its node by as much; honest clocks agree to seconds."""
MODELS_MAX = 256
TEXT_CHARACTERS_MAX = 256
"""Of a version: what is kept for each participant is bounded."""
NEW_PEER_SECONDS = 1.0
"""How often to look for new peers, who know nothing of us yet."""


class PresenceTable:
    """The newest unexpired record of each registered participant.

    Bounded by the registry's size, and shrinks as records expire. A record repeated by whoever kept it is older than
    the one known, or expired.
    """

    def __init__(self, chain: Chain, wall_clock: WallClock) -> None:
        self._chain = chain
        self._wall_clock = wall_clock
        self._records: dict[Address, Presence] = {}
        self._providers: dict[Address, Provider] | None = None
        """By account, ascending; None if it must be gathered anew."""
        self._providers_until = 0
        """When the first of them may expire, in UNIX seconds."""

    def judge(self, message: Message) -> Validity:
        """Only the registered peer of an account speaks for it, and not beyond PRESENCE_SECONDS_MAX."""
        body = message.body
        if not isinstance(body, Presence):
            return Validity.REJECT
        if not _is_well_formed(body) or not 0 < body.expires_at - message.at <= PRESENCE_SECONDS_MAX:
            return Validity.REJECT
        if message.at > self._wall_clock() + FUTURE_SECONDS_MAX:
            return Validity.IGNORE  # whose clock is wrong is not for this node to say
        participant = self._chain.state.participants.get(message.sender)
        if participant is None or participant.peer_id != body.peer_id:
            return Validity.IGNORE  # it may be registered in a block this node has not confirmed
        known = self._records.get(message.sender)
        if body.expires_at <= self._wall_clock() or (known is not None and body.expires_at < known.expires_at):
            return Validity.IGNORE
        return Validity.ACCEPT

    def take(self, message: Message) -> None:
        """Keep an accepted record."""
        if isinstance(message.body, Presence):
            if message.sender not in self._records:
                log.info("a participant is present", account=message.sender, models=list(message.body.models))
            if not _same_place(self._records.get(message.sender), message.body):
                self._providers = None
            self._records[message.sender] = message.body

    def record_of(self, account: Address) -> Presence | None:
        """Return the unexpired record of `account`, if there is one."""
        record = self._records.get(account)
        if record is not None and record.expires_at <= self._wall_clock():
            del self._records[account]
            self._providers = None
            log.info("a participant is gone", account=account)
            return None
        return record

    def present(self) -> dict[Address, Presence]:
        """All unexpired records."""
        records = {account: self.record_of(account) for account in sorted(self._records)}
        return {account: record for account, record in records.items() if record is not None}

    def forget_expired(self) -> None:
        """Let the table shrink though nobody asks for a record."""
        now = self._wall_clock()
        for account in [account for account, record in self._records.items() if record.expires_at <= now]:
            self.record_of(account)

    def providers(self, first: Address | None = None) -> tuple[Provider, ...]:
        """Where content may be had: the gateways of everyone else who is here, that of `first` before all others.

        Whoever made a content is most likely to have it: to ask all in another order takes as long as there are many.
        """
        if self._providers is None or self._wall_clock() >= self._providers_until:
            present = self.present()
            self._providers_until = min((record.expires_at for record in present.values()), default=0)
            self._providers = {
                account: Provider(record.content_host, record.content_port)
                for account, record in present.items()
                if record.content_host and account != self._chain.account
            }
        own = None if first is None else self._providers.get(first)
        if own is None:
            return tuple(self._providers.values())
        return own, *(provider for provider in self._providers.values() if provider is not own)


def _same_place(known: Presence | None, new: Presence) -> bool:
    return known is not None and (known.content_host, known.content_port) == (new.content_host, new.content_port)


def _is_well_formed(body: Presence) -> bool:
    return (
        0 <= body.content_port < 2**16
        and body.load >= 0
        and body.capacity >= 0
        and len(body.models) <= MODELS_MAX
        and len(body.version) <= TEXT_CHARACTERS_MAX
        and (not body.content_host or is_host(body.content_host))
        and {len(body.seed_commitment), len(body.seed_revealed)} <= {0, 32}
    )


class PresenceService:
    """Announces this node once it is registered."""

    def __init__(
        self,
        chain: Chain,
        network: Network,
        router: GossipRouter,
        table: PresenceTable,
        *,
        content: Provider | None,
        loaded_models: Callable[[], Sequence[ModelId]],
        load: Callable[[], int],
        version: str,
        wall_clock: WallClock,
        capacity: Callable[[], int] = lambda: 0,
        seeds: Callable[[], Announcement] | None = None,
        free: bool = False,
    ) -> None:
        """`load` counts requests in progress, `capacity` those that can be served at once (0: not said). `seeds` says
        what to tell of the secrets for seeds; None where no answers are given.
        """
        self._chain = chain
        self._network = network
        self._table = table
        self._content = content
        self._loaded_models = loaded_models
        self._load = load
        self._capacity = capacity
        self._version = version
        self._wall_clock = wall_clock
        self._seeds = seeds
        self._free = free
        router.register(Presence, table.judge, table.take)

    async def run(self) -> None:
        """Announce every ANNOUNCE_SECONDS, and soon when models or peers change: a second more harms nobody."""
        last: tuple[object, ...] = ()
        announced_at = float("-inf")
        while True:
            now = self._wall_clock()
            self._table.forget_expired()
            peers = tuple(peer.peer_id for peer in self._network.peers())
            models = tuple(sorted(self._loaded_models()))
            registered = self._chain.account in self._chain.state.participants
            due = trio.current_time() - announced_at >= ANNOUNCE_SECONDS
            if registered and (due or last != (peers, models)):
                seeds = self._seeds() if self._seeds is not None else None
                await self._network.publish(
                    Presence(
                        peer_id=self._network.peer_id,
                        content_host=self._content.host if self._content else "",
                        content_port=self._content.port if self._content else 0,
                        models=models,
                        load=self._load(),
                        version=self._version,
                        expires_at=now + PRESENCE_SECONDS,
                        capacity=self._capacity(),
                        seed_commitment=seeds.commitment if seeds is not None else b"",
                        seed_revealed=seeds.revealed if seeds is not None else b"",
                        free=self._free,
                    )
                )
                last, announced_at = (peers, models), trio.current_time()
            await trio.sleep(NEW_PEER_SECONDS)
