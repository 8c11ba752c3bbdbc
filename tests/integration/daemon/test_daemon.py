"""quernd and quern as an operator meets them: faults of settings, keys, chain and ports are named, no tracebacks."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trio

from node.chain.deployer import send_transaction
from node.chain.deployment import deploy_network
from node.chain.devnet import DevelopmentChain, development_account, find_anvil, run_anvil, stop_process
from node.chain.rpc import JsonRpc
from node.keys import keystore_account
from tests.integration.chain.conftest import ROOT, plan_for

QUERN = Path(sys.executable).with_name("quern")
QUERND = Path(sys.executable).with_name("quernd")
FAR_NODE = """
[[engines]]
node_id = "far"
model_id = "absent"
url = "http://127.0.0.1:9"
"""
pytestmark = [pytest.mark.chain, pytest.mark.timeout(300)]


@dataclass
class Place:
    """A chain with the contracts, and the data directory of one gateway."""

    directory: Path
    chain: DevelopmentChain
    rpc: JsonRpc

    @property
    def config(self) -> Path:
        return self.directory / "node" / "quern.toml"

    async def run(
        self, *words: str | Path, environment: dict[str, str] | None = None, seconds: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        with trio.fail_after(seconds):
            return await trio.run_process(
                [str(word) for word in words],
                capture_stdout=True, capture_stderr=True, check=False,
                env={"PATH": "/usr/bin:/bin", **(environment or {})},
            )  # fmt: skip

    async def quernd(self, **environment: str) -> str:
        """Run a daemon that cannot start; return what it says."""
        result = await self.run(QUERND, "--config", self.config, environment=environment)
        said = result.stderr.decode()
        assert result.returncode == 1, said
        assert "Traceback" not in said
        return said

    async def quern(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return await self.run(QUERN, *words, "--data-dir", self.directory / "node")


@asynccontextmanager
async def place(directory: Path) -> AsyncIterator[Place]:
    owner, miners = development_account(0), tuple(development_account(index) for index in (1, 2, 3))
    async with (
        run_anvil(find_anvil(ROOT), block_seconds=None, log_path=directory / "anvil.log") as chain,
        httpx.AsyncClient() as client,
    ):
        rpc = JsonRpc([chain.url], client)
        await deploy_network(rpc, owner, plan_for(owner, miners), directory / "deployment.json", lambda _line: None)
        await rpc.call("evm_setIntervalMining", 1)
        here = Place(directory, chain, rpc)
        made = await here.run(
            QUERN, "init", "--data-dir", directory / "node", "--role", "gateway",
            "--rpc-url", chain.url, "--chain-id", "31337", "--deployment", directory / "deployment.json",
            "--passphrase-file", directory / "passphrase", "--listen", "/ip4/127.0.0.1/tcp/0",
            "--content-port", "0", "--api-port", "0",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr.decode()
        yield here


async def test_what_is_wrong_at_the_start_is_named(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        (tmp_path / "wrong").write_text("not the passphrase\n")
        (tmp_path / "wrong").chmod(0o600)
        assert "passphrase" in await here.quernd(QUERN_ACCOUNT__PASSPHRASE_FILE=str(tmp_path / "wrong"))
        assert "31337" in await here.quernd(QUERN_CHAIN__CHAIN_ID="1")
        assert "no chain endpoint answered" in await here.quernd(QUERN_CHAIN__RPC_URLS='["http://127.0.0.1:9"]')
        assert "deployment" in await here.quernd(QUERN_CHAIN__DEPLOYMENT=str(tmp_path / "absent.json"))
        assert "QUERN_CHAIN__CHIAN_ID" in await here.quernd(QUERN_CHAIN__CHIAN_ID="1")
        taken = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = taken[0].socket.getsockname()[1]
        assert "in use" in await here.quernd(QUERN_API__PORT=str(port))
        assert "in use" in await here.quernd(QUERN_CONTENT__PORT=str(port), QUERN_CONTENT__HOST="127.0.0.1")
        assert "in use" in await here.quernd(QUERN_P2P__LISTEN=f'["/ip4/127.0.0.1/tcp/{port}"]')
        for listener in taken:
            await listener.aclose()
        settings = here.config.read_text()
        here.config.write_text(settings + "\n[chian]\nid = 1\n")
        assert "chian" in await here.quernd()
        here.config.write_text(settings)


async def test_a_running_daemon_answers_its_operator_and_doctor_names_a_dead_chain(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        account = (await here.quern("init", "--json")).stdout
        assert b"0x" in account
        await fund(here)
        here.config.write_text(here.config.read_text() + FAR_NODE)
        process = await trio.lowlevel.open_process(
            [str(QUERND), "--config", str(here.config)],
            stdin=subprocess.DEVNULL, stderr=(tmp_path / "log").open("wb"), env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        try:
            with trio.fail_after(60):
                while b"registered with" not in (await here.quern("doctor")).stdout:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    await trio.sleep(0.5)
            for command in (
                "status",
                "peers",
                "models",
                "epoch",
                "earnings",
                "nodes",
                "chain status",
                "chain intents --all",
            ):
                result = await here.quern(*command.split())
                assert result.returncode == 0, result.stderr.decode()
                assert result.stdout
            drained = await here.quern("nodes", "drain", "far", "--json")
            assert json.loads(drained.stdout)["remedy"] == "quern nodes resume far"
            refused = await here.quern("ask", "hello")
            assert refused.returncode == 1
            assert b"active models" in refused.stderr
            second = await here.quernd()
            assert "another quernd" in second
            doctor = await here.quern("doctor")
            assert doctor.returncode == 0, doctor.stdout.decode()

            await stop_process(here.chain.process)
            doctor = await here.quern("doctor")
            assert doctor.returncode == 1
            assert b"no endpoint answers" in doctor.stdout
            earnings = await here.quern("earnings")
            assert earnings.returncode == 1
            assert b"balances cannot be read" in earnings.stderr
            assert process.poll() is None  # the daemon waits for its chain

            stopped = await here.quern("stop")
            assert stopped.returncode == 0, stopped.stderr.decode()
            with trio.fail_after(20):
                assert await process.wait() == 0
            assert (await here.quern("status")).returncode == 1
        finally:
            if process.poll() is None:
                process.kill()
                await process.wait()
        assert b"Traceback" not in (tmp_path / "log").read_bytes()


async def fund(here: Place) -> None:
    """Give the daemon's account gas."""
    account = keystore_account(here.directory / "node" / "account.json")
    await send_transaction(here.rpc, development_account(0), "gas", account, value=10**18)
