"""Finds the content key that an owner wraps for somebody: the one that a published version is encrypted with."""

from pathlib import Path

from node.models.encryption.container import SealBrokenError
from node.models.encryption.directory import PUBLIC_FILE, PUBLIC_FILE_BYTES_MAX, parse_public_file
from node.models.encryption.keyring import KeyRing, KeyRingError
from node.models.encryption.keys import ContentKey, KeyId
from node.protocol.identifiers import Cid, ModelId
from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid as BlockCid
from p2p.content.tree import CorruptBlockError, TreeReader
from p2p.content.unixfs import UnixFsError


def published_key_id(content_dir: Path, cid: Cid) -> KeyId:
    """Return the id of the key that opens the published model `cid`. Blocking.

    Raises KeyRingError if the model is not encrypted, or not in this content directory.
    """
    if not content_dir.is_dir():
        raise KeyRingError(f"there is no content directory {content_dir}: give --key-id of the key to wrap")
    store = BlockStore(content_dir)
    try:
        reader = TreeReader(store.read, PUBLIC_FILE_BYTES_MAX)
        return parse_public_file(b"".join(reader.chunks(reader.resolve(BlockCid.parse(cid), (PUBLIC_FILE,)))))
    except UnixFsError as error:
        raise KeyRingError(f"{cid} is no encrypted model, so there is no key to wrap: {error}") from error
    except (SealBrokenError, CorruptBlockError, BlockMissingError, OSError) as error:
        raise KeyRingError(
            f"{cid} cannot be read from {content_dir} ({error}): run this where the model was published, or give "
            "--key-id of the key to wrap"
        ) from error
    finally:
        store.close()


def owned_key(keys_dir: Path, model_id: ModelId, key_id: KeyId) -> ContentKey:
    """Return an owner's key. Raises KeyRingError."""
    held = KeyRing(keys_dir).find(key_id)
    if held is None or held.model_id != model_id:
        raise KeyRingError(
            f"the key {key_id.hex()} of {model_id} is not in {keys_dir}: restore it from your backup, or run this "
            "where the model was encrypted"
        )
    return held.key
