"""The seeds of answers: the executor's secrets, one per epoch, and where a request's seed comes from.

A secret is in the store before its commitment leaves this node: after a crash the same secret answers for it.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from node.ports import Store
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.seeds import (
    SECRET_BYTES,
    SeedShare,
    SeedShareError,
    check_share,
    commitment_of,
    drawn_seed,
    make_share,
)
from node.protocol.signatures import DigestSigner
from node.services.frames import InferenceRequest

log = structlog.get_logger(__name__)

DOCUMENT = "seed-secrets"
SECRETS_KEPT = 3
"""The present one, the one before, which requests on their way may name, and the one that is published."""


@dataclass(frozen=True, slots=True)
class EpochSecret:
    """The secret of the epoch in which it was drawn."""

    epoch: EpochNumber
    secret: bytes


@dataclass(frozen=True, slots=True)
class KeptSecrets:
    """What is stored; newest first."""

    items: tuple[EpochSecret, ...]


class UnknownCommitmentError(Exception):
    """A request names a commitment whose secret is not here, or no secret any more."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What an executor tells all: the commitment in force and the secret that is none any more (or empty)."""

    commitment: Hash32
    revealed: bytes


class SeedBook:
    """An executor's secrets. Rotates by itself when the epoch has changed; every method may write to the store."""

    def __init__(
        self,
        store: Store,
        epoch: Callable[[], EpochNumber],
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """`epoch` says which one is running."""
        self._store = store
        self._epoch = epoch
        self._random_bytes = random_bytes
        self._kept = _load(store)

    def announcement(self) -> Announcement:
        """Return what to announce now."""
        self._rotate()
        revealed = self._kept[-1].secret if len(self._kept) == SECRETS_KEPT else b""
        return Announcement(commitment_of(self._kept[0].secret), revealed)

    def secret_of(self, commitment: Hash32) -> bytes:
        """Return the secret of a commitment that may still be named. Raises UnknownCommitmentError."""
        self._rotate()
        for kept in self._kept[: SECRETS_KEPT - 1]:
            if commitment_of(kept.secret) == commitment:
                return kept.secret
        raise UnknownCommitmentError("the request names a commitment that this executor no longer answers for")

    def _rotate(self) -> None:
        epoch = self._epoch()
        # An epoch before the newest one is a short reorganisation at its border: nothing to do.
        if self._kept and self._kept[0].epoch >= epoch:
            return
        fresh = EpochSecret(epoch, self._random_bytes(SECRET_BYTES))
        kept = (fresh, *self._kept)[:SECRETS_KEPT]
        self._store.put_document(DOCUMENT, to_bytes(KeptSecrets(kept)))
        self._kept = kept


def _load(store: Store) -> tuple[EpochSecret, ...]:
    data = store.get_document(DOCUMENT)
    if data is None:
        return ()
    try:
        return from_bytes(KeptSecrets, data).items
    except SchemaError as error:
        log.error("the stored secrets for seeds cannot be read; new ones are drawn", reason=str(error))
        return ()


def with_seed_source(request: InferenceRequest, share: SeedShare | None, commitment: bytes) -> InferenceRequest:
    """Return the request as one executor gets it, if its seed is not the user's.

    `share` is that of the executor whose tokens the user already has: the answer goes on with its seed. Otherwise the
    executor's own `commitment`, from its presence record, is named. Raises SeedShareError if it announces none.
    """
    if request.seed is not None:
        return request
    if share is not None:
        return replace(request, seed_share=share, seed_commitment=None)
    if not commitment:
        raise SeedShareError("the executor binds itself to no secret for seeds")
    return replace(request, seed_share=None, seed_commitment=Hash32(commitment))


@dataclass(frozen=True, slots=True)
class AnswerSeed:
    """The seed an answer is drawn with."""

    seed: int
    share: SeedShare | None
    """The executor's half; None if the payer gave the seed."""


def seed_of(
    request: InferenceRequest,
    book: SeedBook,
    sign: DigestSigner,
    is_member: Callable[[Address], bool],
) -> AnswerSeed:
    """Return the seed of a request at the executor. Raises UnknownCommitmentError, SeedShareError.

    A share of another executor is taken if that is a member of the group: a payer could make shares with keys of its
    own as it likes.
    """
    if request.seed is not None:
        return AnswerSeed(request.seed, None)
    share = request.seed_share
    if share is not None:
        check_share(share, request.request_id, request.payer)
        if not is_member(share.executor):
            raise SeedShareError("the share of the seed is not from a member of the group")
        return AnswerSeed(drawn_seed(request.request_id, request.payer, share.share), share)
    if request.seed_commitment is None:
        raise SeedShareError("the request says nothing of its seed")
    secret = book.secret_of(request.seed_commitment)
    made = make_share(secret, request.request_id, request.payer, request.executor, sign)
    return AnswerSeed(drawn_seed(request.request_id, request.payer, made.share), made)


def seed_of_opening(request: InferenceRequest, share: SeedShare | None) -> AnswerSeed:
    """Return the seed at the gateway, from the share in the executor's opening. Raises SeedShareError."""
    if request.seed is not None:
        return AnswerSeed(request.seed, None)
    if share is None:
        raise SeedShareError("the executor kept its share of the seed to itself")
    expected = share if request.seed_share is None else request.seed_share
    if share != expected:
        raise SeedShareError("the executor goes on with another seed")
    if request.seed_share is None:
        if (share.executor, share.commitment) != (request.executor, request.seed_commitment):
            raise SeedShareError("the share of the seed is not made with the secret that was asked for")
        check_share(share, request.request_id, request.payer)
    return AnswerSeed(drawn_seed(request.request_id, request.payer, share.share), share)
