"""What engines load: by CID, whole, valid, and kept for as long as it is loaded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.models.identity import LocalModelId
from node.models.library import ModelLibrary
from node.models.manager import ManagerRefusedError
from node.models.validation import ModelInvalidError
from node.protocol.identifiers import Cid
from p2p.content.cid import Cid as BlockCid
from p2p.content.unixfs_import import import_path
from tests.builders import model
from tests.unit.models.managing import CannedContent, Place, tree
from tests.unit.models.test_validation import write_safetensors


def published(tmp_path: Path) -> tuple[Cid, CannedContent]:
    directory = tmp_path / "published"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    write_safetensors(directory / "model.safetensors")
    cid = str(import_path(directory, BlockCid.of).cid)
    return Cid(cid), CannedContent({cid: tree(directory)})


async def test_a_model_is_fetched_validated_and_kept_while_it_is_loaded(tmp_path: Path) -> None:
    cid, content = published(tmp_path)
    async with Place(tmp_path, content=content).manager() as manager:
        library = ModelLibrary(manager)
        path = await library.ensure(replace(model(), cid=cid))
        assert path == tmp_path / "models" / "ipfs" / cid
        with pytest.raises(ManagerRefusedError, match="loaded"):
            await manager.remove(LocalModelId(f"ipfs/{cid}"), "test")
        library.release(cid)
        await manager.remove(LocalModelId(f"ipfs/{cid}"), "test")


async def test_providers_are_waited_for_as_long_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.models.library.RETRY_SECONDS", 0.01)
    cid, content = published(tmp_path)
    content.unavailable = 10  # more than one download is patient for
    async with Place(tmp_path, content=content).manager() as manager:
        with trio.fail_after(20):
            await ModelLibrary(manager).ensure(replace(model(), cid=cid))


async def test_what_is_no_model_is_refused_and_not_counted_as_loaded(tmp_path: Path) -> None:
    content = CannedContent({"bafybeievil": {"model.bin": b"\x80\x04 runs code"}})
    async with Place(tmp_path, content=content).manager() as manager:
        with pytest.raises(ModelInvalidError, match="pickled"):
            await ModelLibrary(manager).ensure(replace(model(), cid=Cid("bafybeievil")))
        await manager.remove(LocalModelId("ipfs/bafybeievil"), "test")
        with pytest.raises(ModelInvalidError, match="no CID"):
            await ModelLibrary(manager).ensure(replace(model(), cid=Cid("../../etc")))
