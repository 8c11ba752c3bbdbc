"""Account signatures over 32-byte digests: secp256k1, recoverable, low-s only (EIP-2), as Ethereum has them."""

import functools
from collections.abc import Callable

from coincurve import PrivateKey, PublicKey
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from node.protocol.identifiers import Address, Hash32

SIGNATURE_BYTES = 65
"""r (32), s (32), v (1; 27 or 28)."""
ADDRESSES_KEPT_MAX = 4096
"""The same few accounts sign again and again; to write an address takes half as long as to recover its key."""
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

DigestSigner = Callable[[Hash32], bytes]
"""Signs a 32-byte digest with an account key; returns SIGNATURE_BYTES bytes."""


class SignatureError(ValueError):
    """The signature is malformed, or malleable, or no key could have made it."""


def recover(digest: Hash32, signature: bytes) -> Address:
    """Return the account that signed `digest`; raise SignatureError if none can have."""
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28):
        raise SignatureError("expected 65 bytes r, s, v with v of 27 or 28")
    if int.from_bytes(signature[32:64]) > CURVE_ORDER // 2:
        raise SignatureError("high s: a second signature for the same message could be made from it")
    try:
        key = PublicKey.from_signature_and_message(signature[:64] + bytes([signature[64] - 27]), digest, hasher=None)
    except Exception as error:  # the library raises bare Exception and ValueError alike
        raise SignatureError(f"not a signature: {error}") from error
    return address_of(key)


def sign(key: PrivateKey, digest: Hash32) -> bytes:
    """Sign `digest`; the result is deterministic (RFC 6979) and has low s."""
    raw = key.sign_recoverable(digest, hasher=None)
    return raw[:64] + bytes([raw[64] + 27])


def compact_signature(signature: bytes) -> tuple[bytes, bytes]:
    """Return a signature in the short form of ERC-2098: r, and s with v in its top bit, which a low s leaves free."""
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28) or signature[32] >> 7:
        raise SignatureError("expected 65 bytes r, s, v with low s and v of 27 or 28")
    return signature[:32], bytes([signature[32] | (signature[64] - 27) << 7]) + signature[33:64]


def address_of(key: PublicKey) -> Address:
    """Return the account of a public key."""
    return _address_of(key.format(compressed=False))


@functools.lru_cache(maxsize=ADDRESSES_KEPT_MAX)
def _address_of(key: bytes) -> Address:
    return Address(to_checksum_address(keccak(key[1:])[12:]))
