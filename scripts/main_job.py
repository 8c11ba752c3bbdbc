"""The main job: from an empty chain to a proved and paid epoch, step by step, with a summary read from the chain.

Run by scripts/quickstart, and by the system test, which looks at the chain for itself before the network is gone.
"""

import argparse
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio
from openai import OpenAI

from contracts.bindings import epoch_manager, payment_channels, quern_token, reward_distributor
from node.amounts import amount_to_tokens
from node.chain.adapter import read_contract
from node.chain.deployer import DeploymentFailedError
from node.chain.devnet import DevelopmentChainError
from node.control.chain_views import PromptsView
from node.control.views import AskView, EarningsView, EpochView, ModelsView, StatusView
from node.protocol.stages import Stage
from scripts.local_network import (
    GATEWAY,
    MINERS,
    MODEL_ID,
    QUERN,
    TINY_MODEL,
    Daemon,
    LocalNetwork,
    LocalNetworkError,
    run_local_network,
)

QUESTION = "What does Python say about lambda?"
LONG_QUESTION = "Tell me more about comparisons."
LONG_ANSWER_TOKENS = 1500
ANSWER_TOKENS = 64
EPOCH_SECONDS_MAX = 400.0
SETTLED_SECONDS_MAX = 120.0
KILL_TRIES_MAX = 5
KILL_AFTER_PIECES = 5
LAST_SERVE_BLOCKS = 3
"""Not skipped before GENERATE: for the newest heads to reach everybody."""


@dataclass(slots=True)
class Accounts:
    """What the chain holds of the daemons' accounts at one moment, in units of 10^-18 of the token."""

    tokens: dict[str, int] = field(default_factory=dict)
    """Balance by daemon."""
    redeemed: dict[str, int] = field(default_factory=dict)
    """Paid out of the gateway's channel to each miner."""
    claimed: dict[str, int] = field(default_factory=dict)
    """Reward coins by daemon."""


@dataclass(slots=True)
class Report:
    """What the job did, as it goes on."""

    cid: str = ""
    answer: str = ""
    chain_answer: AskView | None = None
    epoch: int = -1
    """The epoch that was proved."""
    before: Accounts = field(default_factory=Accounts)
    after: Accounts = field(default_factory=Accounts)
    books: dict[str, EarningsView] = field(default_factory=dict)
    settled_block: int = 0
    """The newest block when `books` were read: what came later is in neither."""
    nonces: dict[str, int] = field(default_factory=dict)
    """Nonces that were accepted, by miner: its weight in the group that the epoch formed."""
    killed: str = ""
    survived_answer: str = ""
    survived_finish: str = ""

    def books_gas(self) -> dict[str, int]:
        """Gas by daemon, as their books have it: of confirmed transactions."""
        return {name: book.gas_spent for name, book in self.books.items()}


Inspect = Callable[[LocalNetwork, Report], Awaitable[None]]


class Steps:
    """Prints numbered steps with the seconds they took."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._number = 0
        self._started = self._step_started = time.monotonic()

    def begin(self, what: str) -> None:
        """The next step begins."""
        self._number += 1
        self._step_started = time.monotonic()
        print(f"[{self._number}/{self._count}] {what}", flush=True)

    def tell(self, what: str) -> None:
        """Something of the running step."""
        print(f"        {time.monotonic() - self._step_started:5.1f} s  {what}", flush=True)

    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started


async def run_main_job(*, directory: Path | None = None, keep: bool = False, inspect: Inspect | None = None) -> Report:
    """Run the job; `inspect` sees the network after the summary, before the kill. Raises LocalNetworkError."""
    steps = Steps(9)
    report = Report()
    steps.begin("Starting a chain and making keys for three miners and a gateway")
    async with run_local_network(steps.tell, directory) as network:
        await network.initialise()
        steps.tell(f"chain at {network.rpc_url}")
        await network.hold_epochs()
        steps.begin("Deploying the contracts")
        await network.deploy()
        steps.begin("Publishing the tiny model: validate, import, register its CID on chain")
        report.cid = await network.publish()
        steps.tell(f"{MODEL_ID} is {report.cid}")
        await _start_daemons(network, steps, report)
        await _ask(network, steps, report)
        await _ask_on_chain(network, steps, report)
        await _prove_an_epoch(network, steps, report)
        await _summarise(network, steps, report)
        if inspect is not None:
            await inspect(network, report)
        await _kill_a_miner(network, steps, report)
        print(f"\nDone in {steps.seconds():.0f} s. Everything above was read from the chain or checked against it.")
        if keep:
            await _keep(network)
    return report


async def _start_daemons(network: LocalNetwork, steps: Steps, report: Report) -> None:
    steps.begin("Starting the daemons: two miners fetch the model from the first, then all load it into vLLM")
    first, *others = network.miners
    await network.start(first)
    for daemon in (*others, network.gateway):
        await network.start(daemon)

    async def held() -> bool:
        for daemon in others:
            models = (await daemon.call("models", ModelsView)).models
            if not any(model.cid == report.cid and model.held for model in models):
                return False
        return True

    await network.until("the model fetched by CID", held)
    steps.tell("both hold every block of the model, each verified against its hash")
    await network.until_ready()
    steps.tell("three engines are ready, four daemons are connected with each other")
    report.before = await read_accounts(network)
    await network.begin_epochs()


async def _ask(network: LocalNetwork, steps: Steps, report: Report) -> None:
    steps.begin(f"Asking through the OpenAI SDK: {QUESTION}")
    await network.until("executors present", lambda: _models_offered(network))
    pieces = await trio.to_thread.run_sync(_stream, network.gateway, QUESTION, ANSWER_TOKENS)
    report.answer = "".join(pieces)
    steps.tell(f"answer in {len(pieces)} pieces: {report.answer[:100]!r}")


async def _models_offered(network: LocalNetwork) -> bool:
    models = (await network.gateway.call("models", ModelsView)).models
    return any(model.in_epoch and model.executors == len(MINERS) for model in models)


def _stream(gateway: Daemon, question: str, max_tokens: int) -> list[str]:
    client = OpenAI(base_url=gateway.api_url, api_key="none", max_retries=0)
    stream = client.chat.completions.create(
        model=MODEL_ID,
        messages=[{"role": "user", "content": question}],
        max_tokens=max_tokens,
        seed=7,
        stream=True,
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    return [piece for piece in pieces if piece]


async def _ask_on_chain(network: LocalNetwork, steps: Steps, report: Report) -> None:
    steps.begin("Asking on chain: submitPrompt, escrow, an executor drawn by weight")
    text = await network.command(
        QUERN, "ask", "--data-dir", network.gateway.directory, "--on-chain", "--max-tokens", "96",
        "--json", QUESTION,
    )  # fmt: skip
    report.chain_answer = AskView.model_validate_json(text)
    paid = amount_to_tokens(int(report.chain_answer.price))
    steps.tell(f"answered by {report.chain_answer.executor} for {paid} tokens: {report.chain_answer.text[:60]!r}")

    async def settled() -> bool:
        view = await network.gateway.call("chain_prompts", PromptsView)
        return all(prompt.until_block is None for prompt in view.prompts)

    # Blocks are skipped next. The executor settles some blocks after its answer, the user some blocks later if it did
    # not: with both behind them at once, both would, and one of the two transactions be reverted.
    await network.until("the answer on chain is paid", settled, SETTLED_SECONDS_MAX)


async def _prove_an_epoch(network: LocalNetwork, steps: Steps, report: Report) -> None:
    now = await network.gateway.call("epoch", EpochView)
    # An epoch whose GENERATE has begun may be proved already by those that were ready: take the next that is whole.
    report.epoch = now.epoch if now.stage == Stage.SERVE.name else now.epoch + 1
    steps.begin(f"Proving epoch {report.epoch}: nonces, commits, validation, votes, result, switch")
    if now.stage == Stage.SERVE.name:
        await network.skip_to(now.next_stage_block - LAST_SERVE_BLOCKS)  # nothing waits for what is left of SERVE
    told: list[str] = []

    async def posted() -> bool:
        view = await network.gateway.call("epoch", EpochView)
        if view.epoch == report.epoch and view.stage not in told:
            told.append(view.stage)
            steps.tell(f"{view.stage} at block {view.block}")
        if view.last_result_epoch is None or view.last_result_epoch < report.epoch:
            return False
        report.epoch = view.last_result_epoch  # a later one, if this machine was too slow for the first
        return True

    await network.until("a result accepted by a quorum", posted, EPOCH_SECONDS_MAX)
    group = await group_of(network, report.epoch + 1)
    report.nonces = {miner.name: group.get(miner.account, 0) for miner in network.miners}
    steps.tell(f"result posted; nonces accepted: {report.nonces}")


async def _summarise(network: LocalNetwork, steps: Steps, report: Report) -> None:
    steps.begin("Settling: vouchers redeemed, rewards claimed")

    async def settled() -> bool:
        report.after = await read_accounts(network)
        report.settled_block = await network.rpc.block_number()
        report.books = {d.name: await d.call("earnings", EarningsView) for d in network.daemons.values()}
        return all(
            int(report.books[miner.name].vouchers_received) == report.after.redeemed[miner.name]
            and int(report.books[miner.name].rewards_cumulative) == report.after.claimed[miner.name]
            and report.after.claimed[miner.name] > report.before.claimed[miner.name]
            for miner in network.miners
        ) and report.books_gas() == await read_gas(network, report.settled_block)

    await network.until("books and chain agree", settled, SETTLED_SECONDS_MAX)
    _print_summary(network, report)


def _print_summary(network: LocalNetwork, report: Report) -> None:
    header = ("", "tokens before", "tokens after", "redeemed", "rewards claimed", "nonces", "served", "gas used")
    rows = [header]
    for name in (*MINERS, GATEWAY):
        books = report.books[name]
        rows.append(
            (
                name,
                amount_to_tokens(report.before.tokens[name]),
                amount_to_tokens(report.after.tokens[name]),
                amount_to_tokens(report.after.redeemed.get(name, 0)),
                amount_to_tokens(report.after.claimed[name]),
                str(report.nonces.get(name, "-")),
                f"{books.output_tokens} tokens",
                str(books.gas_spent),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    print()
    for row in rows:
        print("  " + "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))
    promised = int(report.books[GATEWAY].vouchers_issued)
    redeemed = sum(report.after.redeemed.values())
    claimed = sum(report.after.claimed.values())
    signed, paid = amount_to_tokens(promised), amount_to_tokens(redeemed)
    print(f"\n  vouchers signed by the gateway {signed} = redeemed on chain {paid}")
    print(f"  rewards in the miners' books = claimed on chain {amount_to_tokens(claimed)}")
    print(f"  gas in the daemons' books = gas of their receipts on chain {sum(report.books_gas().values())}")
    if promised != redeemed:
        raise LocalNetworkError(f"the gateway signed for {promised}, the chain paid {redeemed}")


async def _kill_a_miner(network: LocalNetwork, steps: Steps, report: Report) -> None:
    """Kill whoever answers, in the middle of an answer; the stream must go on to its end."""
    steps.begin("Killing a miner in the middle of its answer")
    for number in range(KILL_TRIES_MAX):
        arrived: list[str] = []
        finished: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stream_long, network, number, arrived, finished)
            # The SDK fills the list in a thread of its own, which has no event to wait for.
            while len(arrived) < KILL_AFTER_PIECES and not finished:  # noqa: ASYNC110
                await trio.sleep(0.02)
            busy = None if finished else await _busy_miner(network)
            if busy is not None:
                count = len(arrived)
                await busy.kill()
                steps.tell(f"killed {busy.name} after {count} pieces")
                report.killed = busy.name
        if report.killed:
            report.survived_answer, report.survived_finish = "".join(arrived), finished[0]
            if len(arrived) <= count:
                raise LocalNetworkError("nothing came after the kill")
            steps.tell(f"the stream went on to its end: {len(arrived)} pieces, finish reason {finished[0]}")
            return
        steps.tell("the answer was complete before a miner could be killed; asking again")
    raise LocalNetworkError("no answer was long enough to kill a miner in its middle")


async def _stream_long(network: LocalNetwork, seed: int, arrived: list[str], finished: list[str]) -> None:
    def run() -> None:
        client = OpenAI(base_url=network.gateway.api_url, api_key="none", max_retries=0)
        stream = client.chat.completions.create(
            model=MODEL_ID,
            messages=[{"role": "user", "content": LONG_QUESTION}],
            max_tokens=LONG_ANSWER_TOKENS,
            temperature=0,
            seed=seed,
            stream=True,
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                arrived.append(chunk.choices[0].delta.content)
            if chunk.choices and chunk.choices[0].finish_reason:
                finished.append(chunk.choices[0].finish_reason)
        if not finished:
            raise LocalNetworkError("the stream ended without a finish reason")

    await trio.to_thread.run_sync(run)


async def _busy_miner(network: LocalNetwork) -> Daemon | None:
    for miner in network.miners:
        if (await miner.call("status", StatusView)).running_requests:
            return miner
    return None


async def read_accounts(network: LocalNetwork) -> Accounts:
    """Read the daemons' accounts from the chain, at its newest block."""
    addresses = network.deployment.addresses
    accounts = Accounts()

    for daemon in network.daemons.values():
        account = daemon.account
        balance = await read_contract(network.rpc, addresses.token, quern_token.balance_of(account))
        claimed = await read_contract(network.rpc, addresses.reward_distributor, reward_distributor.claimed_of(account))
        accounts.tokens[daemon.name] = balance
        accounts.claimed[daemon.name] = claimed
    for miner in network.miners:
        view = payment_channels.get_channel(network.gateway.account, miner.account)
        accounts.redeemed[miner.name] = (await read_contract(network.rpc, addresses.payment_channels, view)).redeemed
    return accounts


async def read_gas(network: LocalNetwork, last_block: int) -> dict[str, int]:
    """Add up from the chain's receipts, up to a block, the gas of each daemon's transactions."""
    names = {daemon.account.lower(): daemon.name for daemon in network.daemons.values()}
    spent = dict.fromkeys(names.values(), 0)
    for number in range(last_block + 1):
        for receipt in await network.rpc.call("eth_getBlockReceipts", hex(number)):
            name = names.get(receipt["from"].lower())
            if name is not None:
                spent[name] += int(receipt["gasUsed"], 16)
    return spent


async def group_of(network: LocalNetwork, epoch: int) -> dict[str, int]:
    """Read weights of an epoch's group from the chain."""
    weights = {}
    for miner in network.miners:
        view = epoch_manager.weight_of(epoch, miner.account)
        weights[str(miner.account)] = await read_contract(network.rpc, network.deployment.addresses.epoch_manager, view)
    return weights


async def _keep(network: LocalNetwork) -> None:
    gateway = network.gateway
    miner = next(miner for miner in network.miners if miner.process is None or miner.process.poll() is None)
    print(f"""
The network goes on (one miner is dead, two serve). It lies in {network.directory}. Try:

  .venv/bin/quern status --data-dir {gateway.directory}
  .venv/bin/quern ask --data-dir {gateway.directory} "{QUESTION}"
  .venv/bin/quern epoch --data-dir {miner.directory}
  .venv/bin/quern rewards --data-dir {miner.directory}
  curl -s {gateway.api_url}/models
  tail -f {network.log_of(gateway)}

End it with Ctrl-C.""")
    await trio.sleep_forever()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Runs the main job on a local network.")
    parser.add_argument("--keep", action="store_true", help="leave the network running until Ctrl-C")
    parser.add_argument("--directory", type=Path, help="keep all files here instead of a temporary directory")
    arguments = parser.parse_args()
    if not TINY_MODEL.is_dir():
        print(f"there is no tiny model at {TINY_MODEL}: run scripts/setup", file=sys.stderr)
        return 1

    # Asked to end in whatever way, nothing is left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    async def run() -> None:
        await run_main_job(directory=arguments.directory, keep=arguments.keep)

    try:
        trio.run(run)
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0 if arguments.keep else 130
    except BaseException as error:
        reason: BaseException = error
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        if isinstance(reason, KeyboardInterrupt):
            print("\nStopped.")
            return 0 if arguments.keep else 130
        if not isinstance(reason, LocalNetworkError | DevelopmentChainError | DeploymentFailedError):
            raise
        print(f"\nFAILED: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
