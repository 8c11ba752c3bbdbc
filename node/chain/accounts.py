"""The account that sends and signs: its secp256k1 key, held in memory only (files: node/keys.py)."""

from collections.abc import Mapping
from typing import Any

from coincurve import PrivateKey

from node.chain.transactions import sign_transaction
from node.protocol.identifiers import Address, Hash32
from node.protocol.signatures import address_of, sign


class LocalAccount:
    """An unlocked account: signs digests and transactions."""

    def __init__(self, key: PrivateKey) -> None:
        self.private_key = key
        self.address: Address = address_of(key.public_key)

    def sign_digest(self, digest: Hash32) -> bytes:
        """Sign a 32-byte digest; 65 bytes."""
        return sign(self.private_key, digest)

    def sign_transaction(self, fields: Mapping[str, Any]) -> tuple[Hash32, bytes]:
        """Sign a transaction; return its hash and raw bytes."""
        return sign_transaction(self.private_key, fields)


def account_from_secret(secret: bytes) -> LocalAccount:
    """Return the account of a 32-byte secret (development networks and tests)."""
    return LocalAccount(PrivateKey(secret))
