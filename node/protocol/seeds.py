"""Where the seed of an answer comes from: half from who asks, half from who answers, so that neither can choose it.

Purpose: whoever could choose the seed could try many until the noise favours an answer it wants, or one that a cheaper
model gives too, and every check of the draw would pass.

Detail: an executor binds itself to a secret per epoch (`commitment_of`) before any request of that epoch exists. A
request names the commitment; its id and payer are the asker's half, `share_of` is the executor's. The executor signs
its share, so another executor can go on with the same answer, and whoever learns the secret, which is published later,
can prove a share that was made up. A seed that the user gave stands for itself.

Not prevented: payer and executor in one hand, and a payer that asks several executors, paying each, and keeps the
answer it likes. Both pay for what they waste, and neither can name the seed it wants.
"""

import hashlib
import hmac
from dataclasses import dataclass

from node.protocol.canonical import keccak_digest, sha256_digest
from node.protocol.identifiers import Address, Hash32, RequestId
from node.protocol.signatures import DigestSigner, SignatureError, recover

SECRET_BYTES = 32
SHARE_BYTES = 32
SEED_BITS = 63
"""Engines take seeds as signed 64-bit integers; negative ones are not used."""


class SeedShareError(ValueError):
    """A share that its executor did not give for this request."""


@dataclass(frozen=True, slots=True)
class SeedShare:
    """An executor's half of a seed, signed for one request id of one payer."""

    executor: Address
    commitment: Hash32
    """Names the secret that the share was made with."""
    share: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if len(self.commitment) != 32 or len(self.share) != SHARE_BYTES:
            raise ValueError("a commitment and a share have 32 bytes each")


def commitment_of(secret: bytes) -> Hash32:
    """Return what is announced of a secret while it is one."""
    return sha256_digest(["quern-seed-commitment", secret])


def share_of(secret: bytes, request_id: RequestId, payer: Address) -> bytes:
    """Return the executor's half for a request: HMAC-SHA256 of id and payer's 20 bytes under the secret."""
    return hmac.digest(secret, request_id + bytes.fromhex(payer.removeprefix("0x")), hashlib.sha256)


def drawn_seed(request_id: RequestId, payer: Address, share: bytes) -> int:
    """Return the seed that both halves give: 63 bits."""
    digest = sha256_digest(["quern-seed", request_id, payer, share])
    return int.from_bytes(digest[:8]) >> (64 - SEED_BITS)


def make_share(
    secret: bytes, request_id: RequestId, payer: Address, executor: Address, sign: DigestSigner
) -> SeedShare:
    """Return the executor's signed half for a request."""
    commitment, share = commitment_of(secret), share_of(secret, request_id, payer)
    digest = share_digest(request_id, payer, executor, commitment, share)
    return SeedShare(executor, commitment, share, sign(digest))


def share_digest(request_id: RequestId, payer: Address, executor: Address, commitment: Hash32, share: bytes) -> Hash32:
    """Return what the executor signs."""
    return keccak_digest(["quern-seed-share", request_id, payer, executor, commitment, share])


def check_share(share: SeedShare, request_id: RequestId, payer: Address) -> None:
    """Raise SeedShareError unless the executor named in `share` signed it for this request."""
    digest = share_digest(request_id, payer, share.executor, share.commitment, share.share)
    try:
        signer = recover(digest, share.signature)
    except SignatureError as error:
        raise SeedShareError(f"the share of the seed is not signed: {error}") from error
    if signer != share.executor:
        raise SeedShareError(f"the share of the seed was signed by {signer}, not by {share.executor}")


def is_honest(share: SeedShare, secret: bytes, request_id: RequestId, payer: Address) -> bool:
    """Whether a share is the one that its published secret gives. False is proof of a made-up share if it is signed.

    `secret` must be the one that `share.commitment` names; another one says nothing, and is a ValueError.
    """
    if commitment_of(secret) != share.commitment:
        raise ValueError("this secret is not the one that the share's commitment names")
    return hmac.compare_digest(share_of(secret, request_id, payer), share.share)
