"""The vectors of the encrypted format: what another implementation must open, byte for byte.

`python -m tests.vectors.encryption` writes encryption.json anew; a test fails when the code no longer gives what is
written. Keys and salts are fixed here and nowhere else.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from node.models.encryption.container import seal_file
from node.models.encryption.directory import (
    LISTING_PATH,
    ListedFile,
    render_listing,
    render_public_file,
)
from node.models.encryption.keys import ContentKey
from node.models.encryption.wrapping import account_recipient, node_recipient, peer_encryption_key, wrap_key
from node.protocol.identifiers import ModelId
from node.protocol.signatures import address_of

FILE = Path(__file__).with_name("encryption.json")
KEY = ContentKey(bytes(range(32)))
MODEL = ModelId("team/secret")
ACCOUNT_KEY, PEER_SEED = PrivateKey(bytes([3] * 32)), bytes([4] * 32)
CHUNK_BYTES = 64
SIZES = (0, 1, 64, 65, 200)


def salt(number: int) -> bytes:
    """Return the salt of a vector."""
    return hashlib.sha256(f"quern vector salt {number}".encode()).digest()


def plain(size: int) -> bytes:
    """Return the plain bytes of a vector."""
    return bytes(index % 256 for index in range(size))


def sealed(data: bytes, path: str, number: int) -> bytes:
    """Return a sealed file."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "plain", Path(folder) / "sealed"
        source.write_bytes(data)
        seal_file(source, target, path, KEY, chunk_bytes=CHUNK_BYTES, salt=salt(number))
        return target.read_bytes()


def vectors() -> dict[str, Any]:
    """Return all vectors."""
    listing = render_listing([ListedFile("config.json", 2, salt(90)), ListedFile("sub/weights", 200, salt(91))])
    account = address_of(ACCOUNT_KEY.public_key)
    to_account = account_recipient(ACCOUNT_KEY.public_key.format(), account)
    to_node = node_recipient(peer_encryption_key(PEER_SEED))
    return {
        "content_key": KEY.secret.hex(),
        "key_id": KEY.key_id.hex(),
        "files": [
            {
                "path": "model.safetensors",
                "chunk_bytes": CHUNK_BYTES,
                "salt": salt(size).hex(),
                "file_key": KEY.file_key(salt(size)).hex(),
                "plain": plain(size).hex(),
                "sealed": sealed(plain(size), "model.safetensors", size).hex(),
            }
            for size in SIZES
        ],
        "listing": {"plain": listing.hex(), "sealed": sealed(listing, LISTING_PATH, 99).hex()},
        "public_file": render_public_file(KEY.key_id).decode(),
        "wrapped": {
            "model_id": MODEL,
            "account": {
                "address": account,
                "private_key": ACCOUNT_KEY.secret.hex(),
                "public_key": to_account.public_key.hex(),
                "ephemeral_key": bytes([5] * 32).hex(),
                "wrapped": wrap_key(KEY, MODEL, to_account, draw_account_key=lambda: PrivateKey(bytes([5] * 32))).hex(),
            },
            "node": {
                "peer_seed": PEER_SEED.hex(),
                "encryption_key": to_node.public_key.hex(),
                "ephemeral_key": bytes([6] * 32).hex(),
                "wrapped": wrap_key(
                    KEY, MODEL, to_node, draw_node_key=lambda: X25519PrivateKey.from_private_bytes(bytes([6] * 32))
                ).hex(),
            },
        },
    }


def render() -> str:
    """Return the file's text."""
    return json.dumps(vectors(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
