"""`quern ipfs kubo` and `quern ipfs add --kubo` against the stand-in: what Kubo then holds, and what is said if not."""

import json
import os
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from node.cli.main import quern
from node.settings import SETTINGS_FILE_NAME
from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid, Codec
from tests.integration.sources.kubo_stand_in import KuboStandIn, kubo_stand_in

NOWHERE = "/ip4/127.0.0.1/tcp/1"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "quern"
    BlockStore(path / "content").close()
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_bytes(os.urandom(2_500_000))
    return path


async def run(data_dir: Path, *arguments: str, code: int = 0) -> Result:
    """Run a command in a thread, so that the stand-in can answer it."""
    line = ["ipfs", *arguments, "--data-dir", str(data_dir)]
    result: Result = await trio.to_thread.run_sync(lambda: CliRunner().invoke(quern, line))
    assert result.exit_code == code, (result.output, result.exception)
    return result


async def test_a_held_directory_is_given_to_kubo_and_pinned_there(data_dir: Path, model: Path) -> None:
    stand_in = KuboStandIn()
    async with kubo_stand_in(stand_in) as address:
        root = (await run(data_dir, "add", str(model))).stdout.strip()
        told = json.loads((await run(data_dir, "kubo", root, "--api", address, "--json")).stdout)
    assert told == {"cid": root, "blocks": 5, "kubo": address}
    assert stand_in.pins == [root]
    assert all(Cid.parse(name).matches(data) for name, data in stand_in.blocks.items())


async def test_what_is_added_can_go_to_the_kubo_of_the_settings_at_once(data_dir: Path, model: Path) -> None:
    stand_in = KuboStandIn()
    async with kubo_stand_in(stand_in) as address:
        (data_dir / SETTINGS_FILE_NAME).write_text(f'[content]\nkubo_api = "{address}"\n')
        root = (await run(data_dir, "add", "--kubo", str(model))).stdout.strip()
    assert stand_in.pins == [root]


async def test_without_a_kubo_the_command_says_what_to_set(data_dir: Path, model: Path) -> None:
    root = (await run(data_dir, "add", str(model))).stdout.strip()
    assert "set kubo_api" in (await run(data_dir, "kubo", root, code=1)).stderr
    assert "is it running" in (await run(data_dir, "kubo", root, "--api", NOWHERE, code=1)).stderr
    await run(data_dir, "add", "--kubo", "--only-hash", str(model), code=2)


async def test_what_is_not_held_whole_is_not_given(data_dir: Path, model: Path) -> None:
    root = (await run(data_dir, "add", str(model))).stdout.strip()
    with (model / "weights").open("ab") as file:
        file.write(b"changed")
    stand_in = KuboStandIn()
    async with kubo_stand_in(stand_in) as address:
        result = await run(data_dir, "kubo", root, "--api", address, code=1)
        assert f"not all of {root} is held" in result.stderr
        absent = str(Cid.of(Codec.RAW, b"absent"))
        await run(data_dir, "kubo", absent, "--api", address, code=1)
    assert stand_in.blocks == {}
