"""The encrypted format is what its vectors say, and what an implementation from the page of the protocol would make."""

import hashlib
import hmac
import json
import struct

import pytest
from coincurve import PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.models.encryption.keys import ContentKey
from node.models.encryption.wrapping import Unwrapper
from node.protocol.identifiers import ModelId
from tests.vectors.encryption import FILE, render

VECTORS = json.loads(FILE.read_text(encoding="utf-8"))


def hkdf(secret: bytes, salt: bytes, purpose: bytes) -> bytes:
    """HKDF-SHA256 for 32 bytes, from RFC 5869 and not from the library under test."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    return hmac.digest(extracted, purpose + b"\x01", "sha256")


def test_the_code_still_gives_the_vectors() -> None:
    assert FILE.read_text(encoding="utf-8") == render()


def test_the_key_id_and_the_keys_of_files_are_hkdf_of_the_content_key() -> None:
    key = bytes.fromhex(VECTORS["content_key"])
    assert hkdf(key, b"", b"quern content key id 1").hex() == VECTORS["key_id"]
    for file in VECTORS["files"]:
        assert hkdf(key, bytes.fromhex(file["salt"]), b"quern sealed file 1").hex() == file["file_key"]


@pytest.mark.parametrize("file", VECTORS["files"], ids=lambda file: str(len(file["plain"]) // 2))
def test_a_reader_written_from_the_page_opens_the_files(file: dict[str, str]) -> None:
    sealed, plain = bytes.fromhex(file["sealed"]), bytes.fromhex(file["plain"])
    header, body = sealed[:86], sealed[86:]
    magic, version, chunk, key_id, salt, size = struct.unpack(">8sHI32s32sQ", header)
    assert (magic, version, key_id.hex(), salt.hex()) == (b"QUERNSEA", 1, VECTORS["key_id"], file["salt"])
    cipher = AESGCM(bytes.fromhex(file["file_key"]))
    count = max(1, -(-size // chunk))
    opened = b""
    for index in range(count):
        part = body[index * (chunk + 16) : (index + 1) * (chunk + 16)]
        bound = header + index.to_bytes(8, "big") + bytes([index == count - 1]) + file["path"].encode()
        opened += cipher.decrypt(index.to_bytes(12, "big"), part, bound)
    assert opened == plain


@pytest.mark.parametrize("kind", ["account", "node"])
def test_the_wrapped_keys_of_the_vectors_open(kind: str) -> None:
    told = VECTORS["wrapped"]
    unwrapper = Unwrapper(
        bytes.fromhex(told["node"]["peer_seed"]), PrivateKey(bytes.fromhex(told["account"]["private_key"]))
    )
    key = unwrapper.unwrap(
        bytes.fromhex(told[kind]["wrapped"]), ModelId(told["model_id"]), bytes.fromhex(VECTORS["key_id"])
    )
    assert key == ContentKey(bytes.fromhex(VECTORS["content_key"]))
    assert told[kind]["wrapped"].startswith("01" if kind == "account" else "02")


def test_the_shared_secret_of_accounts_is_the_hash_of_the_compressed_point() -> None:
    told = VECTORS["wrapped"]["account"]
    point = PrivateKey(bytes.fromhex(told["private_key"])).public_key.multiply(bytes.fromhex(told["ephemeral_key"]))
    secret = hashlib.sha256(point.format(compressed=True)).digest()
    wrapped = bytes.fromhex(told["wrapped"])
    key = hkdf(secret, wrapped[1:34] + bytes.fromhex(told["public_key"]), b"quern wrapped key 1 secp256k1")
    # ["quern-wrapped-key", "team/secret", key id] in canonical msgpack, spelt out
    bound = b"\x93\xb1quern-wrapped-key\xabteam/secret\xc4\x20" + bytes.fromhex(VECTORS["key_id"])
    assert AESGCM(key).decrypt(bytes(12), wrapped[34:], bound).hex() == VECTORS["content_key"]
