"""Transactions that turn what was earned into tokens: each is sent once, waited for, and named once when refused."""

import structlog

from node.ports import ActionStatus, Chain
from node.protocol.actions import ChainAction, is_overtaken

log = structlog.get_logger(__name__)

REFUSED_MAX = 1024
"""Keys remembered as refused; the oldest goes, and would be named in the log once more."""


class Settlements:
    """Sends and waits: whoever looks again must see what the last transaction did."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._refused: dict[str, None] = {}
        """Keys that failed for good: named once in the log, not at every block."""

    async def settle(self, key: str, action: ChainAction) -> bool:
        """Submit and wait; return whether it was done."""
        if key in self._refused:
            return False
        await self._chain.submit(key, action)
        outcome = await self._chain.outcome(key)
        if outcome.status is ActionStatus.FAILED:
            self._refused[key] = None
            if len(self._refused) > REFUSED_MAX:
                del self._refused[next(iter(self._refused))]
            if is_overtaken(outcome.reason):
                log.info("another member was faster", key=key)
            else:
                log.error("a settlement was refused", key=key, reason=outcome.reason)
            return False
        log.info("settled", key=key)
        return True
