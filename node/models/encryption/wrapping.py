"""Content keys wrapped for one recipient, for the AccessVault or a file: only the recipient's private key opens them.

Two kinds of recipients, one scheme (ECIES): an account by its secp256k1 key, a node by the X25519 key that follows from
its Ed25519 peer key. The sender draws an ephemeral key, both sides get the same secret by Diffie-Hellman, HKDF-SHA256
makes a key of it that is used once, and AES-256-GCM seals the content key with it. Model id and key id are
authenticated: a wrapped key that was deposited for another model or version does not open.
"""

from collections.abc import Callable
from dataclasses import dataclass

from coincurve import PrivateKey, PublicKey
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from node.models.encryption.container import TAG_BYTES, WrongKeyError
from node.models.encryption.keys import KEY_BYTES, ContentKey, KeyId, derive_key
from node.protocol.canonical import encode
from node.protocol.identifiers import Address, ModelId
from node.protocol.peer_binding import KEY_BYTES as PEER_KEY_BYTES
from node.protocol.peer_binding import PEER_KEY_PREFIX
from node.protocol.signatures import address_of

ACCOUNT_KIND = 1
NODE_KIND = 2
"""First byte of a wrapped key: what the recipient's key is, and the version of the format."""
ACCOUNT_KEY_BYTES = 33
"""Compressed secp256k1 point."""
NODE_KEY_BYTES = 32
SEALED_KEY_BYTES = KEY_BYTES + TAG_BYTES
WRAPPED_BYTES = {
    ACCOUNT_KIND: 1 + ACCOUNT_KEY_BYTES + SEALED_KEY_BYTES,
    NODE_KIND: 1 + NODE_KEY_BYTES + SEALED_KEY_BYTES,
}
"""82 and 81: far below the 256 that the AccessVault takes."""

_NONCE = bytes(12)
"""The key is used for this one message."""
_PURPOSES = {ACCOUNT_KIND: b"quern wrapped key 1 secp256k1", NODE_KIND: b"quern wrapped key 1 x25519"}


class RecipientError(ValueError):
    """A public key is none, or not that of who it is said to be."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whom a key is wrapped for."""

    kind: int
    public_key: bytes


def account_recipient(public_key: bytes, account: Address) -> Recipient:
    """Return the recipient that is `account`. Raises RecipientError if the key is not that account's."""
    try:
        key = PublicKey(public_key)
    except ValueError as error:
        raise RecipientError(f"{public_key.hex()[:80]} is no secp256k1 public key") from error
    if address_of(key) != account:
        raise RecipientError(f"this is the public key of {address_of(key)}, not of {account}")
    return Recipient(ACCOUNT_KIND, key.format(compressed=True))


def node_recipient(encryption_key: bytes) -> Recipient:
    """Return the recipient with this X25519 key, as `quern vault public-key` prints and the AccessVault keeps it."""
    if len(encryption_key) != NODE_KEY_BYTES or not any(encryption_key):
        raise RecipientError(f"an encryption key has {NODE_KEY_BYTES} bytes that are not all zero")
    return Recipient(NODE_KIND, encryption_key)


def peer_recipient(peer_id: bytes) -> Recipient:
    """Return the recipient that is the peer with this id (multihash bytes). Raises RecipientError."""
    if len(peer_id) != len(PEER_KEY_PREFIX) + PEER_KEY_BYTES or not peer_id.startswith(PEER_KEY_PREFIX):
        raise RecipientError("the peer id is not an Ed25519 key, so nothing can be encrypted to it")
    try:
        verify_key = VerifyKey(peer_id[len(PEER_KEY_PREFIX) :])
        return node_recipient(bytes(verify_key.to_curve25519_public_key()))
    except (CryptoError, RuntimeError) as error:
        raise RecipientError("the peer id holds no point of the curve, so nothing can be encrypted to it") from error


@dataclass(frozen=True, slots=True)
class Unwrapper:
    """The private keys of this daemon, as far as it has them at hand."""

    peer_seed: bytes | None = None
    account_key: PrivateKey | None = None

    def unwrap(self, wrapped: bytes, model_id: ModelId, key_id: KeyId) -> ContentKey:
        """Return the content key `key_id` of `model_id`. Raises WrongKeyError, which says why not."""
        kind = wrapped[0] if wrapped else 0
        if WRAPPED_BYTES.get(kind) != len(wrapped):
            raise WrongKeyError(f"{len(wrapped)} bytes of kind {kind} are no wrapped key that this software knows")
        ephemeral, sealed = wrapped[1:-SEALED_KEY_BYTES], wrapped[-SEALED_KEY_BYTES:]
        secret, own = self._agree(kind, ephemeral)
        wrapping_key = derive_key(secret, ephemeral + own, _PURPOSES[kind])
        try:
            key = ContentKey(AESGCM(wrapping_key).decrypt(_NONCE, sealed, _bound_to(model_id, key_id)))
        except InvalidTag:
            raise WrongKeyError(
                f"the wrapped key was not made for this {'account' if kind == ACCOUNT_KIND else 'node'}, for "
                f"{model_id} and for key {key_id.hex()[:16]}…. Ask the model's owner to wrap it anew"
            ) from None
        if key.key_id != key_id:
            raise WrongKeyError(f"the owner of {model_id} wrapped another key than its files are sealed with")
        return key

    def _agree(self, kind: int, ephemeral: bytes) -> tuple[bytes, bytes]:
        """Return the shared secret and the own public key."""
        try:
            if kind == NODE_KIND:
                if self.peer_seed is None:
                    raise WrongKeyError("the key is wrapped for a node's peer key, which is not at hand here")
                private = _peer_private_key(self.peer_seed)
                return private.exchange(X25519PublicKey.from_public_bytes(ephemeral)), _public_bytes(private)
            if self.account_key is None:
                raise WrongKeyError("the key is wrapped for an account's key, which is not at hand here")
            own = self.account_key.public_key.format(compressed=True)
            return self.account_key.ecdh(PublicKey(ephemeral).format()), own
        except ValueError as error:
            raise WrongKeyError("the wrapped key is damaged: it holds no public key") from error


def wrap_key(
    key: ContentKey,
    model_id: ModelId,
    recipient: Recipient,
    *,
    draw_account_key: Callable[[], PrivateKey] = PrivateKey,
    draw_node_key: Callable[[], X25519PrivateKey] = X25519PrivateKey.generate,
) -> bytes:
    """Return `key` for `recipient` alone. The two draws are for test vectors. Raises RecipientError."""
    if recipient.kind == ACCOUNT_KIND:
        account_ephemeral = draw_account_key()
        ephemeral = account_ephemeral.public_key.format(compressed=True)
        secret = account_ephemeral.ecdh(recipient.public_key)
    else:
        node_ephemeral = draw_node_key()
        ephemeral = _public_bytes(node_ephemeral)
        try:
            secret = node_ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient.public_key))
        except ValueError as error:  # one of the few points that give everybody the same secret
            raise RecipientError("this encryption key protects nothing: whoever made it made it so") from error
    wrapping_key = derive_key(secret, ephemeral + recipient.public_key, _PURPOSES[recipient.kind])
    sealed = AESGCM(wrapping_key).encrypt(_NONCE, key.secret, _bound_to(model_id, key.key_id))
    return bytes([recipient.kind]) + ephemeral + sealed


def peer_encryption_key(peer_seed: bytes) -> bytes:
    """Return the X25519 public key of the node with this Ed25519 seed."""
    return _public_bytes(_peer_private_key(peer_seed))


def _peer_private_key(peer_seed: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes(SigningKey(peer_seed).to_curve25519_private_key()))


def _public_bytes(private: X25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


def _bound_to(model_id: ModelId, key_id: KeyId) -> bytes:
    return encode(["quern-wrapped-key", model_id, key_id])
