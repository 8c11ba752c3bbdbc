"""A model between three machines: published, fetched by the manager over real sockets, and given on from its place."""

import random
from pathlib import Path

import trio

from node.models.content import open_content
from node.models.identity import LocalModelId
from node.models.requests import IpfsRequest
from node.models.states import ModelStatus
from node.ports import Provider
from tests.unit.models.managing import Place, fetched, tree

FILES = {"config.json": b"{}", "model.safetensors": random.Random(1).randbytes(5_000_000), "empty": b""}


def provider(port: int) -> Provider:
    return Provider("127.0.0.1", port)


async def test_a_fetched_model_is_given_on_until_it_is_removed(tmp_path: Path) -> None:
    published = tmp_path / "published"
    published.mkdir()
    for name, data in FILES.items():
        (published / name).write_bytes(data)
    folders = [tmp_path / name for name in ("owner", "second", "third")]
    for folder in folders:
        folder.mkdir()
    with trio.fail_after(60):
        async with (
            open_content(folders[1] / "content", host="127.0.0.1", port=0, cache_bytes_max=0) as second,
            open_content(folders[2] / "content", host="127.0.0.1", port=0, cache_bytes_max=0) as third,
        ):
            async with open_content(folders[0] / "content", host="127.0.0.1", port=0, cache_bytes_max=0) as owner:
                cid, size = await owner.import_directory(published)
                place = Place(folders[1], content=second, providers=(provider(owner.port),))
                async with place.manager() as manager:
                    progress = await fetched(manager, IpfsRequest(cid=cid))
                    assert progress.status is ModelStatus.AVAILABLE, progress.message
            # The owner is gone: what the third gets, the second gives, from the model's own files.
            place = Place(folders[1], content=second)
            async with place.manager() as manager:
                model_id = LocalModelId(f"ipfs/{cid}")
                assert tree(manager.registry.get(model_id).path) == FILES
                assert await manager.verify(model_id, "test") == []
                other = Place(folders[2], content=third, providers=(provider(second.port),))
                async with other.manager() as asking:
                    progress = await fetched(asking, IpfsRequest(cid=cid))
                    assert progress.status is ModelStatus.AVAILABLE, progress.message
                    assert tree(other.models / "ipfs" / cid) == FILES
                    assert await second.has(cid)
                    await manager.remove(model_id, "test")
                    assert not await second.has(cid)
                    assert sum(third.fetched_bytes.values()) >= size
