"""A development chain: anvil as a child process, with blocks at a steady pace. Never for real money."""

import secrets
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio
from eth_account import Account

from node.chain.accounts import LocalAccount, account_from_secret
from node.chain.rpc import JsonRpc, RpcUnavailableError

DEVELOPMENT_MNEMONIC = "test test test test test test test test test test test junk"
"""Known to everyone: the accounts that anvil fills with ether."""
DEVELOPMENT_CHAIN_ID = 31337
PORTS = range(10_000, 20_000)
"""Below those that systems give to connections and to whoever binds port 0."""
START_SECONDS_MAX = 20.0
START_POLL_SECONDS = 0.1
STOP_SECONDS_MAX = 5.0


class DevelopmentChainError(Exception):
    """Anvil is missing or did not start; the message says what to do."""


@dataclass(frozen=True, slots=True)
class DevelopmentChain:
    """A running anvil."""

    url: str
    process: trio.Process


def find_anvil(root: Path) -> Path:
    """Return anvil of the project's toolchain under `root`. Raises DevelopmentChainError."""
    path = root / "contracts" / "node_modules" / ".bin" / "anvil"
    if not path.exists():
        raise DevelopmentChainError(f"there is no anvil at {path}: run scripts/setup")
    return path


def development_account(index: int) -> LocalAccount:
    """Return one of anvil's accounts with ether."""
    Account.enable_unaudited_hdwallet_features()
    key = Account.from_mnemonic(DEVELOPMENT_MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")
    return account_from_secret(bytes(key.key))


def free_port() -> int:
    """Return a TCP port that is free on loopback now, and that nobody is given who asks the system for any."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            port = secrets.choice(PORTS)
            probe.bind(("127.0.0.1", port))
            return port


@asynccontextmanager
async def run_anvil(
    anvil: Path, *, block_seconds: float | None, log_path: Path, port: int = 0
) -> AsyncIterator[DevelopmentChain]:
    """Run anvil until the context is left. Without `block_seconds`, a block is made for each transaction only.

    States of old blocks, some GiB in an hour, are in a directory that goes with it: anvil would leave them in the home
    of whoever runs it.
    """
    port = port or free_port()
    pace = [] if block_seconds is None else ["--block-time", str(block_seconds)]
    command = [str(anvil), "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(DEVELOPMENT_CHAIN_ID)]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="quern-anvil-", ignore_cleanup_errors=True) as states:
        with log_path.open("ab") as log_file:
            process = await trio.lowlevel.open_process(
                [*command, *pace, "--silent", "--mnemonic", DEVELOPMENT_MNEMONIC, "--cache-path", states],
                stdout=log_file,
                stderr=subprocess.STDOUT,
            )
        try:
            await _until_ready(url, port, process, log_path)
            yield DevelopmentChain(url, process)
        finally:
            await stop_process(process)


async def stop_process(process: trio.Process) -> None:
    """End a child politely, then by force; returns when it is gone."""
    if process.returncode is not None:
        return
    with trio.CancelScope(shield=True):
        process.terminate()
        with trio.move_on_after(STOP_SECONDS_MAX):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _until_ready(url: str, port: int, process: trio.Process, log_path: Path) -> None:
    async with httpx.AsyncClient() as client:
        rpc = JsonRpc([url], client)
        with trio.move_on_after(START_SECONDS_MAX):
            while process.poll() is None:
                try:
                    # The port first: an endpoint that does not answer is worth a warning, one that starts is not.
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    await rpc.call_once("eth_chainId")
                except (OSError, RpcUnavailableError):
                    await trio.sleep(START_POLL_SECONDS)
                else:
                    return
    raise DevelopmentChainError(f"anvil did not start; its log is {log_path}")
