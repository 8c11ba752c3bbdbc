"""Chaos: a real process is killed again and again while its chain reorganises, forgets and lies; then all is counted.

`run_chaos` returns what went wrong. Everything random comes from its seed, but for the timing of processes.
"""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import trio

from node.chain.addresses import Deployment, followed_contracts
from node.chain.deployment import deploy_network
from node.chain.devnet import development_account, find_anvil, run_anvil
from node.chain.event_decoder import EventDecoder
from node.chain.rpc import JsonRpc, RpcError, RpcUnavailableError, hex_bytes, quantity
from node.protocol.events import ChannelFunded
from tests.integration.chain.chaos_child import STOPPED, ChildSpec, amount_of, payee_of
from tests.integration.chain.conftest import ROOT, plan_for
from tests.integration.chain.lying_proxy import LIES, OUTAGES, LyingProxy, Mode, lying_proxies

PROXIES = 3
BLOCK_SECONDS = 0.2
ACCOUNT = 0
TRANSACTIONS_PER_INTENT = 2
LIFE_SECONDS = (0.2, 2.0)
PAUSE_SECONDS = (0.05, 0.35)
LOG_LINES = 40
"""Of the child's log, shown with what went wrong."""


@dataclass(frozen=True)
class Chaos:
    """How bad it gets."""

    seed: int
    intents: int
    kills: int
    confirmations: int = 4
    reorganisation_blocks_max: int = 4
    write_ahead: bool = True
    life_seconds: tuple[float, float] = LIFE_SECONDS
    """Shortest and longest life before a kill. A start takes about one second on a busy machine."""
    finish_seconds: float = 240.0
    """For the last life, which nothing disturbs."""


@dataclass
class Outcome:
    """What happened, and what should not have."""

    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Child:
    """The process that lives many lives."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.lives = 0

    async def start(self) -> None:
        self.lives += 1
        await self._ask(f"start {self.lives - 1}")

    async def kill(self) -> None:
        await self._ask("kill")

    async def status(self) -> str:
        return await self._ask("poll")

    async def _ask(self, line: str) -> str:
        def exchange() -> str:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline().strip()

        return await trio.to_thread.run_sync(exchange)


async def run_chaos(chaos: Chaos, folder: Path) -> Outcome:
    """Run one seed and count."""
    outcome = Outcome()
    chance = random.Random(chaos.seed)
    owner = development_account(ACCOUNT)
    miners = tuple(development_account(index) for index in (1, 2, 3))
    async with (
        run_anvil(find_anvil(ROOT), block_seconds=None, log_path=folder / "anvil.log") as chain,
        httpx.AsyncClient() as client,
        lying_proxies(chain.url, PROXIES) as proxies,
        trio.open_nursery() as mining,
    ):
        rpc = JsonRpc([chain.url], client)
        await rpc.call_once("evm_setAutomine", False)
        one_at_a_time = trio.Lock()
        mining.start_soon(_mine, rpc, one_at_a_time)
        deployment = await deploy_network(
            rpc, owner, plan_for(owner, miners), folder / "deployment.json", lambda line: None
        )
        first_nonce = await rpc.transaction_count(owner.address)
        spec = ChildSpec(
            [proxy.url for proxy in proxies],
            str(folder),
            ACCOUNT,
            chaos.confirmations,
            chaos.intents,
            chaos.write_ahead,
        )
        process = await trio.to_thread.run_sync(_spawn, spec, folder)
        try:
            child = Child(process)
            await child.start()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_disturb_chain, rpc, one_at_a_time, chaos, random.Random(chance.random()), outcome)
                nursery.start_soon(_disturb_endpoints, proxies, random.Random(chance.random()), outcome)
                await _kill_again_and_again(child, chaos, random.Random(chance.random()), outcome)
                nursery.cancel_scope.cancel()
            for proxy in proxies:
                proxy.mode = Mode.HONEST
            before = await rpc.head()
            await _finish(child, folder, outcome, chaos.finish_seconds)
            if outcome.violations:  # why: a chain that stands still is anvil's fault, any other ours
                outcome.violations.append(f"blocks while finishing: {before} to {await rpc.head()}")
                outcome.violations.append("log: " + "\n".join(_last_lines(folder / "child.log")))
        finally:
            process.kill()
            await trio.to_thread.run_sync(process.wait)
        outcome.counts["lies"] = sum(proxy.lies_told for proxy in proxies)
        outcome.counts["lives"] = child.lives
        await _count_intents(rpc, deployment, chaos, first_nonce, outcome)
        await _compare_events(rpc, deployment, folder, child.lives, outcome)
        mining.cancel_scope.cancel()
    return outcome


async def _mine(rpc: JsonRpc, one_at_a_time: trio.Lock) -> None:
    """Make the blocks. Anvil's own clock does not wait for a reorganisation, and leaves a chain with a hole in it."""
    while True:
        async with one_at_a_time:
            await rpc.call_once("evm_mine")
        await trio.sleep(BLOCK_SECONDS)


def _spawn(spec: ChildSpec, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration.chain.chaos_child", json.dumps(asdict(spec))]
    with (folder / "child.log").open("w") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)


async def _kill_again_and_again(child: Child, chaos: Chaos, chance: random.Random, outcome: Outcome) -> None:
    for _ in range(2 * chaos.kills):
        if outcome.counts["kills"] == chaos.kills:
            return
        await trio.sleep(chance.uniform(*chaos.life_seconds))
        status = await child.status()
        if status == "alive":
            await child.kill()
            outcome.counts["kills"] += 1
        elif int(status) == STOPPED:
            outcome.violations.append("stopped: a confirmed block was replaced")
            return
        else:
            outcome.counts["failed starts"] += 1
        await child.start()


async def _disturb_chain(
    rpc: JsonRpc, one_at_a_time: trio.Lock, chaos: Chaos, chance: random.Random, outcome: Outcome
) -> None:
    while True:
        await trio.sleep(chance.uniform(*PAUSE_SECONDS) * 2)
        what = chance.choice(["reorganisation", "reorganisation", "dropped pool", "fee spike"])
        try:
            match what:
                case "reorganisation":
                    async with one_at_a_time:
                        await rpc.call_once("anvil_reorg", chance.randint(1, chaos.reorganisation_blocks_max), [])
                case "dropped pool":
                    await rpc.call_once("anvil_dropAllTransactions")
                case _:
                    await rpc.call_once("anvil_setNextBlockBaseFeePerGas", hex(chance.randint(10, 100) * 10**9))
            outcome.counts[what] += 1
        except (RpcError, RpcUnavailableError):
            outcome.counts[f"refused {what}"] += 1


async def _disturb_endpoints(proxies: Sequence[LyingProxy], chance: random.Random, outcome: Outcome) -> None:
    """Most of the time one endpoint is bad; now and then all are down. Never do two lie at once."""
    while True:
        bad = chance.choice(proxies)
        if chance.random() < 0.15:
            for proxy in proxies:
                proxy.mode = chance.choice(OUTAGES)
            outcome.counts["outage of all"] += 1
        else:
            bad.mode = chance.choice([*LIES, *OUTAGES])
            outcome.counts[bad.mode.value] += 1
        await trio.sleep(chance.uniform(0.2, 1.2))
        for proxy in proxies:
            proxy.mode = Mode.HONEST
        await trio.sleep(chance.uniform(*PAUSE_SECONDS))


async def _finish(child: Child, folder: Path, outcome: Outcome, seconds: float) -> None:
    """Let the last life do what is left."""
    if await child.status() == str(STOPPED):
        return
    with trio.move_on_after(seconds) as patience:
        while not (folder / "complete").exists() or not _is_of(folder, child.lives - 1):
            status = await child.status()
            if status != "alive":
                if int(status) == STOPPED:
                    outcome.violations.append("stopped: a confirmed block was replaced")
                    return
                await child.start()
            await trio.sleep(0.1)
    if patience.cancelled_caught:
        outcome.violations.append("unfinished: intents were never done")
    if await child.status() == "alive":
        await child.kill()


def _last_lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-LOG_LINES:]


def _is_of(folder: Path, life: int) -> bool:
    found = (folder / "complete").read_text().split()
    return bool(found) and int(found[0]) == life


async def _count_intents(
    rpc: JsonRpc, deployment: Deployment, chaos: Chaos, first_nonce: int, outcome: Outcome
) -> None:
    channels = deployment.addresses.payment_channels
    logs = await rpc.call("eth_getLogs", {"fromBlock": "0x0", "address": channels})
    decoder = EventDecoder(deployment.chain_id, deployment.addresses.epoch_manager)
    funded: dict[str, list[int]] = {}
    for entry in logs:
        body = decoder.decode("PaymentChannels", [hex_bytes(t) for t in entry["topics"]], hex_bytes(entry["data"]))
        if isinstance(body, ChannelFunded):
            funded.setdefault(body.payee, []).append(body.deposited)
    for index in range(chaos.intents):
        deposits = funded.get(payee_of(index), [])
        if deposits != [amount_of(index)]:
            outcome.violations.append(f"intent {index}: executed {len(deposits)} times: {deposits}")
    wanted = first_nonce + TRANSACTIONS_PER_INTENT * chaos.intents
    found = await rpc.transaction_count(development_account(ACCOUNT).address)
    if found != wanted:
        outcome.violations.append(f"transactions: {found} of this account are on chain, {wanted} were wanted")


async def _compare_events(rpc: JsonRpc, deployment: Deployment, folder: Path, lives: int, outcome: Outcome) -> None:
    """What each life saw applied must be a beginning of what is on chain: nothing missed, repeated or invented."""
    names = followed_contracts(deployment.addresses)
    decoder = EventDecoder(deployment.chain_id, deployment.addresses.epoch_manager)
    by_address = {address.lower(): name for address, name in names.items()}
    logs = await rpc.call("eth_getLogs", {"fromBlock": "0x0", "address": list(names)})
    truth = []
    for entry in logs:
        topics = [hex_bytes(topic) for topic in entry["topics"]]
        if decoder.decode(by_address[entry["address"].lower()], topics, hex_bytes(entry["data"])) is not None:
            number, index = quantity(entry["blockNumber"]), quantity(entry["logIndex"])
            truth.append(f"{number} {entry['blockHash'][2:]} {index}")
    longest = 0
    for life in range(lives):
        path = folder / f"seen-{life}"
        seen = path.read_text().splitlines() if path.exists() else []
        longest = max(longest, len(seen))
        if seen != truth[: len(seen)]:
            place = next((i for i, pair in enumerate(zip(seen, truth, strict=False)) if pair[0] != pair[1]), len(truth))
            outcome.violations.append(f"life {life} saw event {place} otherwise: {seen[place]}")
    outcome.counts["events"] = len(truth)
    if longest != len(truth) and not outcome.violations:
        outcome.violations.append(f"missed: {longest} of {len(truth)} events were seen")
    if (folder / "failed").exists():
        outcome.violations.append(f"failed: {(folder / 'failed').read_text()}")
