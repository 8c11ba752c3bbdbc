"""Which of several chain endpoints may be asked now: their health, and why one is left out.

Detail: a failure puts back one endpoint, never all. An endpoint that answered a question of record otherwise than most
is in quarantine. One whose head stands still, or lies far behind, while others move is not asked. One of another chain
is refused for good. Nothing here talks to an endpoint; times are `trio.current_time()`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog

log = structlog.get_logger(__name__)

QUORUM_ENDPOINTS = 2
"""With three or more endpoints, so many must say the same before it is taken as a fact: one liar alone cannot."""


FAILURES_NOTED = 3
"""In a row, before the operator is told: single ones are everyday."""


class WrongChainError(Exception):
    """The endpoint's chain is not the one of the settings or of the deployment file; nothing was sent to it."""


@dataclass(frozen=True, slots=True)
class ChainIdentity:
    """What makes a chain this chain: development chains share an id, a genesis block tells them apart."""

    chain_id: int
    genesis_hash: str
    """Hash of block 0, in hex without 0x."""


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """When an endpoint is left out, and for how long."""

    backoff_seconds_first: float = 0.1
    backoff_seconds_max: float = 15.0
    """Longer, and an endpoint that is back stays unused for no reason."""
    quarantine_seconds: float = 120.0
    """Long enough that a lying endpoint seldom takes part, short enough that a repaired one comes back by itself."""
    lag_blocks_max: int = 16
    """Behind what most endpoints have. A reorganisation or slow gossip explains a few blocks, not so many."""
    frozen_seconds: float = 60.0
    """Without a new block, while another endpoint saw some: Ethereum's slot is 12 s, and some slots are empty."""
    frozen_blocks: int = 3
    straggler_seconds_max: float = 2.0
    """What slower endpoints get once enough have answered: one that hangs must not slow everything down."""


class Endpoint:
    """One endpoint and what is known of its health."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        """For logs and messages: paths and passwords of such URLs are often secret."""
        self.verified = False
        """Whether its chain was compared with ours since it last failed."""
        self.refused = ""
        """Why it is never asked again; empty while it is not."""
        self.failures = 0
        self.usable_from = 0.0
        self.quarantined_until = 0.0
        self.head = -1
        self.head_moved_at = 0.0
        self.others_moved = 0
        """Blocks by which the others' heads rose since its own did."""
        self.lagging = False


class EndpointPool:
    """All endpoints of one chain, the preferred first."""

    def __init__(self, urls: Sequence[str], limits: HealthLimits) -> None:
        if not urls:
            raise ValueError("at least one RPC endpoint is needed")
        self.endpoints = tuple(Endpoint(url) for url in dict.fromkeys(urls))
        self.limits = limits

    @property
    def quorum(self) -> int:
        """How many endpoints must say the same for it to count."""
        trusted = sum(1 for endpoint in self.endpoints if not endpoint.refused)
        return QUORUM_ENDPOINTS if trusted > QUORUM_ENDPOINTS else 1

    def to_probe(self, now: float) -> list[Endpoint]:
        """Endpoints whose head is worth asking: also those that lag, for that is how they come back."""
        asked = [e for e in self._trusted(now) if e.usable_from <= now]
        return self._filled(asked, now)

    def to_ask(self, now: float) -> list[Endpoint]:
        """Endpoints to ask, the best first. Those put back are added where there are too few others."""
        asked = [e for e in self._trusted(now) if e.usable_from <= now and not e.lagging]
        return self._filled(asked, now)

    def succeeded(self, endpoint: Endpoint) -> None:
        """It answered."""
        if endpoint.failures >= FAILURES_NOTED:
            log.info("a chain endpoint answers again", endpoint=endpoint.name)
        endpoint.failures, endpoint.usable_from = 0, 0.0

    def failed(self, endpoint: Endpoint, now: float, reason: str) -> None:
        """It did not answer, or nonsense: it is put back, longer each time."""
        endpoint.verified = False  # what answers at this address next may be another chain
        if endpoint.failures == FAILURES_NOTED - 1:
            log.warning("a chain endpoint does not answer", endpoint=endpoint.name, reason=reason)
        limits = self.limits
        # The exponent is bounded so that a long outage does not end in an OverflowError.
        pause = min(limits.backoff_seconds_first * 2.0 ** min(endpoint.failures, 32), limits.backoff_seconds_max)
        endpoint.failures += 1
        endpoint.usable_from = now + pause * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load, hides nothing

    def quarantine(self, endpoint: Endpoint, now: float, method: str) -> None:
        """It contradicted most of the others in a question of record."""
        endpoint.quarantined_until = now + self.limits.quarantine_seconds
        log.error(
            "a chain endpoint contradicts the others and is not asked for a while: it is broken, on a fork, or lies. "
            "Acting on it could have cost money; if this repeats, take it out of [chain] rpc_urls",
            endpoint=endpoint.name,
            method=method,
            seconds=self.limits.quarantine_seconds,
        )

    def refuse(self, endpoint: Endpoint, reason: str) -> None:
        """It serves another chain: it is never asked again."""
        endpoint.refused = reason
        log.error("a chain endpoint is of another chain and is not used", endpoint=endpoint.name, reason=reason)

    def check_any_left(self) -> None:
        """Raise WrongChainError if every endpoint was refused."""
        if all(endpoint.refused for endpoint in self.endpoints):
            raise WrongChainError("; ".join(endpoint.refused for endpoint in self.endpoints))

    def heads_seen(self, heads: Sequence[tuple[Endpoint, int]], now: float) -> int:
        """Take in the heads that endpoints just named; return the highest that most of them have reached.

        So an endpoint that names a future cannot show blocks to us that no other endpoint has.
        """
        rise = max((head - endpoint.head for endpoint, head in heads if endpoint.head >= 0), default=0)
        for endpoint, head in heads:
            if head != endpoint.head:
                endpoint.head, endpoint.head_moved_at, endpoint.others_moved = head, now, 0
            else:
                endpoint.others_moved += max(rise, 0)
        most = self.most([(e, h) for e, h in heads if not self._frozen(e, now)] or heads)
        for endpoint, _ in heads:
            self._judge(endpoint, most, now)
        return self.most([(e, h) for e, h in heads if not e.lagging] or heads)

    def _judge(self, endpoint: Endpoint, most: int, now: float) -> None:
        lagging = self._frozen(endpoint, now) or most - endpoint.head > self.limits.lag_blocks_max
        if lagging and not endpoint.lagging:
            log.warning(
                "a chain endpoint is behind the others and is not used", endpoint=endpoint.name, block=endpoint.head
            )
        elif endpoint.lagging and not lagging:
            log.info("a chain endpoint has caught up and is used again", endpoint=endpoint.name, block=endpoint.head)
        endpoint.lagging = lagging

    def _frozen(self, endpoint: Endpoint, now: float) -> bool:
        still = now - endpoint.head_moved_at > self.limits.frozen_seconds
        return still and endpoint.others_moved >= self.limits.frozen_blocks

    @staticmethod
    def most(heads: Sequence[tuple[Endpoint, int]]) -> int:
        """Return the highest of these that most of the endpoints have reached."""
        ordered = sorted((head for _, head in heads), reverse=True)
        return ordered[len(ordered) // 2]

    def _trusted(self, now: float) -> list[Endpoint]:
        return [e for e in self.endpoints if not e.refused and e.quarantined_until <= now]

    def _filled(self, chosen: list[Endpoint], now: float) -> list[Endpoint]:
        """Add endpoints that were left out for slowness, soonest first, until a quorum is possible."""
        missing = self.quorum - len(chosen)
        if missing > 0:
            rest = sorted((e for e in self._trusted(now) if e not in chosen), key=lambda e: (e.lagging, e.usable_from))
            chosen = chosen + rest[:missing]
        return chosen
