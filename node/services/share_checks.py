"""Whether executors' halves of seeds were what they had bound themselves to: checked when their secrets are published.

Each gateway checks the shares of its own answers. It is one of many, and one false share that its executor signed is
proof enough.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from node.protocol.identifiers import Address, Hash32, ModelId, RequestId
from node.protocol.seeds import SECRET_BYTES, SeedShare, commitment_of, is_honest
from node.services.frames import InferenceRequest, prompt_commitment_of, request_digest

SHARES_MAX = 4096
"""Remembered until their secret is published, two epochs later; the oldest are forgotten first (half a megabyte)."""


@dataclass(frozen=True, slots=True)
class GivenShare:
    """A share and the request it was given for."""

    request_id: RequestId
    model_id: ModelId
    payer: Address
    request_digest: Hash32
    prompt_commitment: Hash32
    share: SeedShare


@dataclass(frozen=True, slots=True)
class RefutedShare:
    """Proof: a signed share, and the published secret, which its commitment names and which gives another share."""

    request_id: RequestId
    payer: Address
    share: SeedShare
    secret: bytes


class ShareBook:
    """Shares that executors gave, until they can be checked."""

    def __init__(self) -> None:
        self._given: OrderedDict[Hash32, list[GivenShare]] = OrderedDict()
        """By commitment, oldest first."""
        self._count = 0

    def keep(self, request: InferenceRequest, share: SeedShare | None) -> None:
        """Remember the share of an answer that `share.executor` began, and signed, for `request`."""
        if share is None or share.executor != request.executor:
            return
        given = GivenShare(
            request.request_id,
            request.model_id,
            request.payer,
            request_digest(request),
            prompt_commitment_of(request),
            share,
        )
        self._given.setdefault(share.commitment, []).append(given)
        self._count += 1
        if self._count > SHARES_MAX:
            oldest, shares = next(iter(self._given.items()))
            shares.pop(0)
            self._count -= 1
            if not shares:
                del self._given[oldest]

    def refuted_by(self, secret: bytes) -> Iterator[tuple[GivenShare, RefutedShare]]:
        """Yield the shares that a published secret proves false, whoever published it; all it settles are forgotten."""
        settled = self._given.pop(commitment_of(secret), []) if len(secret) == SECRET_BYTES else []
        self._count -= len(settled)
        for given in settled:
            if not is_honest(given.share, secret, given.request_id, given.payer):
                yield given, RefutedShare(given.request_id, given.payer, given.share, secret)
