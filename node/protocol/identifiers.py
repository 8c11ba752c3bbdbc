"""Names of things: one type per kind of identifier, so that a peer id cannot be passed for an address."""

from typing import NewType

Address = NewType("Address", str)
"""EVM account in EIP-55 checksum form (`0x` and 40 hex digits). A participant is named by its account."""

PeerId = NewType("PeerId", str)
"""libp2p peer id in base58 text (`12D3Koo…` for Ed25519 keys)."""

ModelId = NewType("ModelId", str)
"""Name of a model in the ModelRegistry contract; 1 to 64 characters of `[a-z0-9._/-]`."""

NodeId = NewType("NodeId", str)
"""Name of an ML node, unique within its participant; 1 to 32 characters of `[a-z0-9._-]`."""

Cid = NewType("Cid", str)
"""Content identifier, CIDv1 in base32 text (`bafy…`, `bafk…`)."""

Hash32 = NewType("Hash32", bytes)
"""A 32-byte digest: block hash, Merkle root, EIP-712 digest or channel id."""

RequestId = NewType("RequestId", bytes)
"""32 random bytes chosen by the gateway; names one inference request."""

EpochNumber = NewType("EpochNumber", int)
"""Epochs count from 0, the epoch that begins at the genesis block of the EpochManager contract."""

BlockNumber = NewType("BlockNumber", int)
"""Height of a block of the EVM chain."""

TokenAmount = NewType("TokenAmount", int)
"""An amount of the network token in its smallest unit (10^-18)."""

ZERO_HASH = Hash32(bytes(32))
