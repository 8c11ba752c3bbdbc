"""Seals prompts and answers to the peer keys of those who are to read them. Implements the Sealing port.

The key of each content is random, used once, and wrapped like the content keys of encrypted models: a peer id alone is
enough to wrap for its node (docs/protocol.md, Encrypted models).
"""

from collections.abc import Sequence

import base58
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.models.encryption.container import WrongKeyError
from node.models.encryption.keys import ContentKey, KeyId, create_content_key, derive_key
from node.models.encryption.wrapping import (
    Recipient,
    RecipientError,
    Unwrapper,
    node_recipient,
    peer_encryption_key,
    peer_recipient,
    wrap_key,
)
from node.ports import SealingError
from node.protocol.canonical import encode
from node.protocol.identifiers import ModelId, PeerId
from node.protocol.sealed_content import SealedContent

_NONCE = bytes(12)
"""The key is used for this one content."""
_PURPOSE = b"quern sealed prompt 1"


class PeerSealing:
    """Seals to peer keys and opens with this node's."""

    def __init__(self, peer_seed: bytes) -> None:
        self._unwrapper = Unwrapper(peer_seed=peer_seed)
        self._public_key = peer_encryption_key(peer_seed)

    @property
    def public_key(self) -> bytes:
        """This node's X25519 key."""
        return self._public_key

    def seal_for_peers(self, data: bytes, model_id: ModelId, peers: Sequence[PeerId]) -> SealedContent:
        """Seal for the nodes with these peer ids. Raises SealingError."""
        try:
            return _seal(data, model_id, [peer_recipient(base58.b58decode(peer)) for peer in peers])
        except ValueError as error:
            raise SealingError(f"nothing can be sealed for one of the executors: {error}") from error

    def seal_for_key(self, data: bytes, model_id: ModelId, public_key: bytes) -> SealedContent:
        """Seal for whoever has the private key to an X25519 key. Raises SealingError."""
        try:
            return _seal(data, model_id, [node_recipient(public_key)])
        except RecipientError as error:
            raise SealingError(str(error)) from error

    def open(self, sealed: SealedContent, model_id: ModelId) -> bytes:
        """Return what was sealed for this node and this model. Raises SealingError."""
        key = self._content_key(sealed, model_id)
        try:
            return AESGCM(_key_of(key)).decrypt(_NONCE, sealed.ciphertext, _bound_to(model_id, key))
        except InvalidTag:
            raise SealingError("the sealed content is damaged") from None

    def _content_key(self, sealed: SealedContent, model_id: ModelId) -> ContentKey:
        for wrapped in sealed.wrapped:
            try:
                return self._unwrapper.unwrap(wrapped, model_id, KeyId(sealed.key_id))
            except WrongKeyError:
                continue  # for another reader
        raise SealingError("the content was not sealed for this node and model")


def _seal(data: bytes, model_id: ModelId, recipients: Sequence[Recipient]) -> SealedContent:
    key = create_content_key()
    wrapped = tuple(wrap_key(key, model_id, recipient) for recipient in recipients)
    return SealedContent(key.key_id, wrapped, AESGCM(_key_of(key)).encrypt(_NONCE, data, _bound_to(model_id, key)))


def _key_of(key: ContentKey) -> bytes:
    return derive_key(key.secret, b"", _PURPOSE)


def _bound_to(model_id: ModelId, key: ContentKey) -> bytes:
    return encode(["quern-sealed-prompt", model_id, key.key_id])
