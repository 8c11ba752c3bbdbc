"""What an executor told of its tokens' probabilities: as it is kept for audits, and how its receipt commits to it."""

import hashlib
from collections.abc import Iterable

from node.protocol.audits import ClaimedLogprobs
from node.protocol.codec import to_bytes
from node.protocol.identifiers import ZERO_HASH, Hash32
from node.protocol.sampling import TokenLogprobs

ALTERNATIVES_KEPT = 5
"""Of the log-probabilities that a user asked for: more are not looked at."""
NOT_ASKED = ZERO_HASH
"""In the receipt of an answer whose user asked for no log-probabilities."""


class ClaimsHash:
    """The commitment to what was said of each token, made as it comes: SHA-256 of the claims' canonical bytes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"quern-claims")

    def add(self, claims: Iterable[ClaimedLogprobs]) -> None:
        """Take what was said of the next tokens; each is a map, so it says itself where it ends."""
        for claim in claims:
            self._hash.update(to_bytes(claim))

    def commitment(self) -> Hash32:
        """Return the commitment to all that was said so far."""
        return Hash32(self._hash.digest())


def claims_commitment(claims: Iterable[ClaimedLogprobs]) -> Hash32:
    """Return what the receipt of an answer has of them, if its user asked for log-probabilities."""
    running = ClaimsHash()
    running.add(claims)
    return running.commitment()


def claims_of(entries: Iterable[TokenLogprobs]) -> tuple[ClaimedLogprobs, ...]:
    """Return log-probabilities as they are kept for audits."""
    return tuple(
        ClaimedLogprobs(
            entry.chosen.token_id,
            entry.chosen.logprob_micro,
            tuple((other.token_id, other.logprob_micro) for other in entry.alternatives[:ALTERNATIVES_KEPT]),
        )
        for entry in entries
    )
