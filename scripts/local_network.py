"""A whole Quern network on this machine: a chain, miners with real engines, a gateway. For the quick start and tests.

Everything runs through the same commands a user would type; nothing here reaches into a daemon.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import trio

from contracts.bindings import epoch_manager, quern_token
from node.chain.adapter import read_contract
from node.chain.addresses import Deployment, read_deployment
from node.chain.deployer import send_transaction
from node.chain.devnet import DEVELOPMENT_CHAIN_ID, development_account, find_anvil, run_anvil
from node.chain.parameters import from_parameters
from node.chain.rpc import JsonRpc
from node.control.client import ControlError, DaemonNotRunningError, connect_control
from node.control.views import StatusView, View
from node.keys import create_keystore, create_passphrase_file, keystore_account, load_peer_seed
from node.protocol.identifiers import Address
from node.protocol.records import EpochParameters
from p2p.identity import Identity

ROOT = Path(__file__).resolve().parents[1]
QUERN = Path(sys.executable).with_name("quern")
QUERND = Path(sys.executable).with_name("quernd")
TINY_MODEL = ROOT / ".cache" / "tiny-model"
MODEL_ID = "tiny"
BLOCK_SECONDS = 1
TOKEN = 10**18
ETHER = 10**18
TREASURY_TOKENS = 1_000_000
GATEWAY_TOKENS = 1_000
MINERS = ("miner-1", "miner-2", "miner-3")
GATEWAY = "gateway"
READY_SECONDS_MAX = 400.0
POLL_SECONDS = 0.5
CALL_SECONDS_MAX = 30.0
EPOCH = {
    "genesis_block": 0,
    "epoch_blocks": 90,
    "generate_offset": 30,
    "exchange_offset": 45,
    "validate_offset": 52,
    "vote_exchange_offset": 66,
    "form_offset": 71,
    "load_offset": 86,
    "poc_sample_size": 32,
    "poc_reject_mismatches": 3,
    "unit_price": "0.000001",
    "initial_subsidy": "900",
    "halving_epochs": 1000,
}
NONCES_MAX = 512
"""A fraction of a second of mining; a real network lets it run through GENERATE."""
PORTS = range(20_000, 32_000)
"""Below those that Linux gives to outgoing connections: a daemon that was killed finds its own free again."""
SETUP_BLOCKS = 400
"""For the daemons to start, at most, where the first epoch waits for them; what is left is skipped."""
FIRST_SERVE_BLOCKS = 6
"""Of that wait: for the newest heads to reach everybody."""
STEP_BLOCKS = 40
"""Skipped at once: what a daemon's look at the chain takes up without trouble."""
MODELS_BYTES_MAX = 2 * 1024**3
"""The tiny model takes a few megabytes: a developer's machine need not have more than this free."""

Answer = TypeVar("Answer", bound=View)
Say = Callable[[str], None]


class LocalNetworkError(Exception):
    """A step failed; the message says which, and where the logs are."""


@dataclass(slots=True)
class Daemon:
    """One quernd of the network."""

    name: str
    directory: Path
    account: Address
    peer_id: str
    p2p_port: int
    content_port: int
    api_port: int
    process: trio.Process | None = None

    @property
    def config(self) -> Path:
        """Its settings file."""
        return self.directory / "quern.toml"

    @property
    def socket(self) -> Path:
        """Its control socket."""
        return self.directory / "control.sock"

    @property
    def address(self) -> str:
        """Multiaddress at which it is dialled."""
        return f"/ip4/127.0.0.1/tcp/{self.p2p_port}/p2p/{self.peer_id}"

    @property
    def api_url(self) -> str:
        """Base URL for OpenAI clients."""
        return f"http://127.0.0.1:{self.api_port}/v1"

    async def call(self, method: str, answer: type[Answer], **parameters: object) -> Answer:
        """Ask the daemon over its control socket."""
        async with connect_control(self.socket) as client:
            return await client.call(method, parameters, answer, deadline_seconds=CALL_SECONDS_MAX)

    async def kill(self) -> None:
        """End it as a power failure would: no farewell, no clean-up."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()


@dataclass(slots=True)
class LocalNetwork:
    """A running network. Made by `run_local_network`."""

    directory: Path
    rpc_url: str
    rpc: JsonRpc
    say: Say
    miner_names: tuple[str, ...] = MINERS
    epoch: dict[str, object] = field(default_factory=lambda: dict(EPOCH))
    """Parameters of the chain's epochs."""
    environment: dict[str, str] = field(default_factory=dict)
    """What all daemons' environment has besides ours, e.g. settings that override those of the files."""
    daemons: dict[str, Daemon] = field(default_factory=dict)
    genesis_weights: dict[str, int] = field(default_factory=dict)
    """Weights of the founders by name; without any, each miner has 1."""

    @property
    def miners(self) -> tuple[Daemon, ...]:
        """The daemons with engines."""
        return tuple(self.daemons[name] for name in self.miner_names)

    @property
    def gateway(self) -> Daemon:
        """The daemon that users talk to."""
        return self.daemons[GATEWAY]

    @property
    def deployment_file(self) -> Path:
        """Addresses of the contracts."""
        return self.directory / "deployment.json"

    @property
    def deployment(self) -> Deployment:
        """Addresses of the contracts."""
        return read_deployment(self.deployment_file)

    @property
    def owner_directory(self) -> Path:
        """Keys of the network's deployer."""
        return self.directory / "owner"

    async def command(self, *words: str | Path, check: bool = True) -> str:
        """Run a command as a user would type it, return what it printed. Raises LocalNetworkError with its error."""
        result = await trio.run_process(
            [*map(str, words)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=ROOT,
        )
        if check and result.returncode != 0:
            raise LocalNetworkError(f"{' '.join(map(str, words))}:\n{result.stderr.decode()}{result.stdout.decode()}")
        return result.stdout.decode()

    async def initialise(self) -> None:
        """Make keys and settings of all daemons and of the owner; the miners know the first of them."""
        ports = free_ports(3 * (len(self.miner_names) + 1))
        first: Daemon | None = None
        for name in (*self.miner_names, GATEWAY):
            p2p, content, api = ports.pop(), ports.pop(), ports.pop()
            directory = self.directory / name
            options: list[str | Path] = ["--role", "gateway" if name == GATEWAY else "miner"]
            if name != GATEWAY:
                options += ["--model", MODEL_ID, "--node-id", "node-1"]
            if first is not None:
                options += ["--bootstrap", first.address]
            await self.command(
                QUERN, "init", "--data-dir", directory, *options,
                "--rpc-url", self.rpc_url, "--chain-id", str(DEVELOPMENT_CHAIN_ID),
                "--deployment", self.deployment_file, "--passphrase-file", directory.with_suffix(".passphrase"),
                "--listen", f"/ip4/127.0.0.1/tcp/{p2p}", "--content-port", str(content), "--api-port", str(api),
                "--models-bytes-max", str(MODELS_BYTES_MAX),
            )  # fmt: skip
            daemon = Daemon(
                name=name,
                directory=directory,
                account=keystore_account(directory / "account.json"),
                peer_id=Identity(load_peer_seed(directory / "peer.key")).peer_id,
                p2p_port=p2p,
                content_port=content,
                api_port=api,
            )
            self.daemons[name] = daemon
            first = first or daemon
        owner = self.owner_directory
        await trio.Path(owner).mkdir(mode=0o700, exist_ok=True)
        if not (owner / "account.json").exists():
            passphrase = create_passphrase_file(owner / "passphrase")
            create_keystore(owner / "account.json", development_account(0).private_key, passphrase)

    async def deploy(self) -> None:
        """Deploy the contracts; give every account gas, and the gateway tokens to pay with.

        Until then a block is made for each transaction, from then on one every BLOCK_SECONDS.
        """
        founders = self.genesis_weights or dict.fromkeys(self.miner_names, 1)
        plan = {
            "token_cap": str(10 * TREASURY_TOKENS),
            "token_supply": str(TREASURY_TOKENS),
            "treasury": development_account(0).address,
            "genesis_group": {self.daemons[name].account: weight for name, weight in founders.items()},
            "parameters": self.epoch,
            "unbonding_seconds": 3600,
            "unlock_seconds": 3600,
            "min_collateral": "0",
            "vesting_seconds": 0,
            "answer_blocks": 60,
            "dispute_blocks": 3,
            "verdict_blocks": 60,
            "fraud_penalty": {"per_mille": 500, "barred_epochs": 10},
            "downtime_penalty": {"per_mille": 10, "barred_epochs": 1},
        }
        plan_file = trio.Path(self.directory / "plan.json")
        await plan_file.write_text(json.dumps(plan, indent=2), encoding="utf-8")
        await self.command(
            sys.executable, ROOT / "scripts" / "deploy.py", "--rpc", self.rpc_url,
            "--keystore", self.owner_directory / "account.json",
            "--passphrase-file", self.owner_directory / "passphrase", "--plan", self.directory / "plan.json",
            "--output", self.deployment_file,
        )  # fmt: skip
        rich = development_account(0)
        for daemon in self.daemons.values():
            await send_transaction(self.rpc, rich, f"gas for {daemon.name}", daemon.account, value=10 * ETHER)
        token = self.deployment.addresses.token
        transfer = quern_token.transfer(self.gateway.account, GATEWAY_TOKENS * TOKEN).calldata
        await send_transaction(self.rpc, rich, "tokens for the gateway", token, data=transfer)
        await self.rpc.call("evm_setIntervalMining", BLOCK_SECONDS)

    async def publish(self, directory: Path = TINY_MODEL, model_id: str = MODEL_ID) -> str:
        """Publish a model from the first miner's machine, by the owner's account; return its CID."""
        first = self.miners[0]
        environment = {
            "QUERN_ACCOUNT__KEYSTORE": str(self.owner_directory / "account.json"),
            "QUERN_ACCOUNT__PASSPHRASE_FILE": str(self.owner_directory / "passphrase"),
        }
        result = await trio.run_process(
            [
                sys.executable, str(ROOT / "scripts" / "owner_upload.py"), "--directory", str(directory),
                "--model-id", model_id, "--name", model_id.capitalize(), "--description", "A tiny Llama for tests",
                "--config", str(first.config),
            ],
            env={**os.environ, **environment}, capture_stdout=True, capture_stderr=True, check=False,
        )  # fmt: skip
        text = result.stdout.decode()
        if result.returncode != 0:
            raise LocalNetworkError(f"publishing failed:\n{result.stderr.decode()}{text}")
        return next(line.removeprefix("CID: ") for line in text.splitlines() if line.startswith("CID: "))

    async def start(self, daemon: Daemon, program: Sequence[str | Path] = (QUERND,)) -> None:
        """Start a daemon, or a `program` in the place of quernd; its log is beside its data."""
        environment = {
            **os.environ,
            "QUERN_NODE__LOG_FILE": str(self.log_of(daemon)),
            "QUERN_MINING__NONCES_MAX": str(NONCES_MAX),
            "QUERN_CHAIN__POLL_SECONDS": "0.3",
            "QUERN_PAYMENTS__DECOYS_PER_DAY": "0",  # who counts answers to the last token wants no others
            **self.environment,
        }
        daemon.process = await trio.lowlevel.open_process(
            [*map(str, program), "--config", str(daemon.config)],
            env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=(daemon.directory / "stderr.log").open("wb"),
        )  # fmt: skip

    def log_of(self, daemon: Daemon) -> Path:
        """Where a daemon logs."""
        return daemon.directory / "quernd.log"

    async def until(self, what: str, condition: Callable[[], Any], seconds_max: float = READY_SECONDS_MAX) -> Any:
        """Wait until the async `condition` returns something true, and return that. Raises LocalNetworkError.

        Daemons that end while they are waited for are reported at once.
        """
        with trio.move_on_after(seconds_max):
            while True:
                self._require_alive()
                try:
                    found = await condition()
                except (DaemonNotRunningError, ControlError, OSError):
                    found = None  # it is starting
                if found:
                    return found
                await trio.sleep(POLL_SECONDS)
        raise LocalNetworkError(f"not within {seconds_max:.0f} s: {what}; the logs are in {self.directory}")

    async def until_ready(self) -> None:
        """Wait until all miners serve, are registered, and everyone is connected to everyone."""

        async def ready() -> bool:
            views = [await daemon.call("status", StatusView) for daemon in self.daemons.values()]
            return all(
                view.registered and view.peers >= len(self.miner_names) and all(engine.ready for engine in view.engines)
                for view in views
            )

        await self.until("all daemons ready", ready)

    async def parameters(self) -> EpochParameters:
        """Read the parameters of the chain's epochs."""
        view = epoch_manager.parameters()
        return from_parameters(await read_contract(self.rpc, self.deployment.addresses.epoch_manager, view))

    async def hold_epochs(self) -> None:
        """Have the first epoch wait for the daemons: before `deploy`, and `begin_epochs` when they are ready."""
        self.epoch["genesis_block"] = await self.rpc.block_number() + SETUP_BLOCKS

    async def begin_epochs(self) -> None:
        """Skip what is left of the wait for the first epoch, but for its last blocks."""
        await self.skip_to((await self.parameters()).genesis_block - FIRST_SERVE_BLOCKS)

    async def skip_to(self, block: int) -> None:
        """Have the chain make the blocks up to this one without a wait, in steps that every daemon keeps up with.

        For blocks in which nothing is to happen: who is in the middle of something has no time to end it.
        """
        while (left := block - await self.rpc.block_number()) > 0:
            await self.rpc.call("anvil_mine", hex(min(left, STEP_BLOCKS)))
            reached = await self.rpc.block_number()

            async def caught_up(reached: int = reached) -> bool:
                running = [daemon for daemon in self.daemons.values() if daemon.process is not None]
                return all([(await d.call("status", StatusView)).head_block >= reached for d in running])

            await self.until(f"all daemons at block {reached}", caught_up)

    async def stop(self) -> None:
        """Stop all daemons that run: politely, then by force."""
        with trio.CancelScope(shield=True):
            running = [daemon.process for daemon in self.daemons.values() if daemon.process is not None]
            for process in running:
                if process.poll() is None:
                    process.terminate()
            with trio.move_on_after(20):
                for process in running:
                    await process.wait()
            for process in running:
                if process.poll() is None:
                    process.kill()
                    await process.wait()

    def _require_alive(self) -> None:
        for daemon in self.daemons.values():
            process = daemon.process
            if process is not None and process.poll() not in (None, -signal.SIGKILL):
                error = (daemon.directory / "stderr.log").read_text(errors="replace")[-2000:]
                raise LocalNetworkError(f"{daemon.name} ended with status {process.returncode}:\n{error}")


def free_ports(count: int) -> list[int]:
    """Return ports that are free on loopback now, and that no outgoing connection is given before they are used.

    Raises LocalNetworkError if there are not so many.
    """
    found: list[socket.socket] = []
    try:
        for port in random.sample(PORTS, len(PORTS)):
            if len(found) == count:
                return [probe.getsockname()[1] for probe in found]
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.close()
            else:
                found.append(probe)
        raise LocalNetworkError(f"{count} ports are not free between {PORTS.start} and {PORTS.stop}")
    finally:
        for probe in found:
            probe.close()


@asynccontextmanager
async def run_local_network(
    say: Say,
    directory: Path | None = None,
    *,
    miner_names: tuple[str, ...] = MINERS,
    epoch: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[LocalNetwork]:
    """Run the chain, and whatever daemons are started, until the context is left.

    Without `directory`, everything lives in a temporary one, which is removed. `epoch` changes parameters of the
    chain's epochs, `environment` is added to that of the daemons.
    """
    if directory is None:
        # Short, because the control sockets lie in it and Unix sockets take 107 bytes.
        with tempfile.TemporaryDirectory(prefix="quern-", ignore_cleanup_errors=True) as temporary:
            async with run_local_network(
                say, Path(temporary), miner_names=miner_names, epoch=epoch, environment=environment
            ) as network:
                yield network
        return
    await trio.Path(directory).mkdir(parents=True, exist_ok=True, mode=0o700)
    async with (
        run_anvil(find_anvil(ROOT), block_seconds=None, log_path=directory / "anvil.log") as chain,
        httpx.AsyncClient() as client,
    ):
        network = LocalNetwork(
            directory,
            chain.url,
            JsonRpc([chain.url], client),
            say,
            miner_names,
            {**EPOCH, **(epoch or {})},
            dict(environment or {}),
        )
        try:
            yield network
        finally:
            await network.stop()
