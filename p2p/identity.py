"""A node's identity: an Ed25519 key from a 32-byte seed, its peer id, and signatures with it."""

from typing import Any

from libp2p import generate_peer_id_from
from libp2p.crypto.ed25519 import create_new_key_pair

SEED_BYTES = 32


class Identity:
    """The key pair of one node. The seed is the secret; everything else follows from it."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a peer key has {SEED_BYTES} bytes, got {len(seed)}")
        self.key_pair: Any = create_new_key_pair(seed)
        self.peer_id: str = str(generate_peer_id_from(self.key_pair).to_base58())

    def sign(self, data: bytes) -> bytes:
        """Sign with Ed25519: 64 bytes."""
        return bytes(self.key_pair.private_key.sign(data))

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether `signature` is this identity's over `data`."""
        try:
            return bool(self.key_pair.public_key.verify(data, signature))
        except Exception:  # the library raises different errors for different malformations
            return False
