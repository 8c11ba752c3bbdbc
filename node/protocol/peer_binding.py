"""The binding of an account to a libp2p peer: what the peer key signs, and whether it did. Purely off chain.

The EVM has no Ed25519 (a check in Solidity costs over half a million gas), so the registry records whatever signature
it is given; every daemon checks it here and ignores a binding whose peer key never consented.
"""

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from node.protocol.canonical import encode
from node.protocol.identifiers import Address

PEER_KEY_PREFIX = bytes.fromhex("002408011220")
"""Of a peer id that is an Ed25519 key: identity multihash of 36 bytes, key type 1, 32 bytes of key."""
KEY_BYTES = 32
SIGNATURE_BYTES = 64


def peer_binding(chain_id: int, epoch_manager: Address, participant: Address) -> bytes:
    """Return what a peer key signs to be bound to an account, on one network only."""
    return encode(["quern-peer", chain_id, epoch_manager, participant])


def peer_consents(peer_id: bytes, binding: bytes, signature: bytes) -> bool:
    """Whether the key that is `peer_id` (multihash bytes) signed `binding`. Other kinds of key never did."""
    if len(signature) != SIGNATURE_BYTES or len(peer_id) != len(PEER_KEY_PREFIX) + KEY_BYTES:
        return False
    if not peer_id.startswith(PEER_KEY_PREFIX):
        return False
    try:
        VerifyKey(peer_id[len(PEER_KEY_PREFIX) :]).verify(binding, signature)
    except BadSignatureError:
        return False
    return True
