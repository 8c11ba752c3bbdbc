"""Content between two real daemons, as their operators handle it: added at one, read at the other, looked after."""

import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.integration.daemon.test_daemon import QUERN, QUERND, Place, place

pytestmark = [pytest.mark.chain, pytest.mark.timeout(180)]
WEIGHT_BYTES = 3 * 1024 * 1024 + 17


class Operator:
    """Runs `quern` against the daemon of one data directory."""

    def __init__(self, here: Place, data_dir: Path) -> None:
        self._here = here
        self.data_dir = data_dir

    async def run(self, *words: str | Path, code: int = 0) -> bytes:
        result = await self._here.run(QUERN, *words, "--data-dir", self.data_dir)
        assert result.returncode == code, result.stderr.decode()
        return result.stdout

    async def ask(self, *words: str | Path) -> Any:
        return json.loads(await self.run(*words, "--json"))


@asynccontextmanager
async def daemon(here: Place, name: str) -> AsyncIterator[Operator]:
    """A daemon without engines that knows nobody yet."""
    data_dir, log = here.directory / name, here.directory / f"{name}.log"
    made = await here.run(
        QUERN, "init", "--data-dir", data_dir, "--role", "seeder",
        "--rpc-url", here.chain.url, "--chain-id", "31337", "--deployment", here.directory / "deployment.json",
        "--passphrase-file", here.directory / f"{name}.passphrase", "--listen", "/ip4/127.0.0.1/tcp/0",
        "--content-port", "0", "--api-port", "0",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr.decode()
    process = await trio.lowlevel.open_process(
        [str(QUERND), "--config", str(data_dir / "quern.toml")],
        stdin=subprocess.DEVNULL, stderr=log.open("wb"), env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    operator = Operator(here, data_dir)
    try:
        with trio.fail_after(60):
            while (await here.run(QUERN, "status", "--data-dir", data_dir)).returncode != 0:
                assert process.poll() is None, log.read_text()
                await trio.sleep(0.2)
        yield operator
        await operator.run("stop")
        with trio.fail_after(20):
            assert await process.wait() == 0
        assert b"Traceback" not in log.read_bytes()
    finally:
        if process.poll() is None:
            process.kill()
            await process.wait()


async def test_what_one_daemon_adds_another_reads_by_cid_and_a_rotten_disk_is_found(tmp_path: Path) -> None:
    published = tmp_path / "published"
    published.mkdir()
    (published / "config.json").write_text('{"architectures": ["Any"]}')
    (published / "weights").write_bytes(os.urandom(WEIGHT_BYTES))
    async with place(tmp_path) as here, daemon(here, "giver") as giver, daemon(here, "taker") as taker:
        cid = (await giver.run("ipfs", "add", published)).decode().split()[-1]
        assert (await giver.run("ipfs", "add", "--only-hash", published)).decode().split()[-1] == cid

        (address,) = (await giver.ask("status"))["addresses"]
        await taker.run("connect", address)
        assert json.loads(await taker.run("ipfs", "cat", f"{cid}/config.json")) == {"architectures": ["Any"]}
        await taker.run("ipfs", "get", cid, "-o", tmp_path / "taken")
        assert (tmp_path / "taken" / "weights").read_bytes() == (published / "weights").read_bytes()
        await taker.run("content", "verify")

        rotten = tmp_path / "taken" / "weights"
        before = rotten.stat()
        with rotten.open("r+b") as file:
            file.seek(WEIGHT_BYTES // 2)
            byte = file.read(1)
            file.seek(WEIGHT_BYTES // 2)
            file.write(bytes([byte[0] ^ 1]))
        os.utime(rotten, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a disk does it: nothing else changes
        await taker.run("content", "verify", code=1)
        await giver.run("content", "verify")

        giver_id = address.rpartition("/")[2]
        await taker.run("peers", "ban", giver_id, "--hours", "1", "--reason", "rotten apples")
        (ban,) = (await taker.ask("peers", "bans"))["bans"]
        assert (ban["peer"], ban["reason"]) == (giver_id, "rotten apples")
        with trio.fail_after(20):
            while (await taker.ask("peers"))["peers"]:
                await trio.sleep(0.2)
        await taker.run("connect", address, code=1)
        await taker.run("peers", "pardon", giver_id)
        await taker.run("connect", address)
