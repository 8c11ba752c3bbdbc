"""200 requests at once while a miner is killed every ten seconds: nobody who asks notices, and the books agree."""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import trio

from contracts.bindings import payment_channels
from node.chain.adapter import read_contract
from node.control.views import EarningsView, ModelsView, StatusView
from node.protocol.stages import Stage, first_block_of, stage_at
from scripts.local_network import MODEL_ID, TINY_MODEL, Daemon, LocalNetwork, run_local_network
from tests.system.remote_engine import remote_engine

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

REQUESTS = 200
KILL_SECONDS = 10.0
KILLS_MIN = 3
ROUNDS_MAX = 40
REMOTE = ("miner-2", "miner-3")
"""Their engines are servers elsewhere, which outlive the daemon; the first miner's engine is its own child."""
STEP_TOKENS_MAX = 64
"""[payments] unpaid_tokens_max: what may be given and not paid, for each request that ran when a miner died."""
EPOCH = {
    "epoch_blocks": 800,
    "generate_offset": 740,
    "exchange_offset": 755,
    "validate_offset": 762,
    "vote_exchange_offset": 776,
    "form_offset": 781,
    "load_offset": 796,
}
"""All of it happens while SERVE lasts, also on a slow machine: what is tested is serving. What is left is skipped."""


@dataclass
class Outcome:
    """What came of one request."""

    text: str
    finish_reason: str
    tokens: int


@dataclass
class Observed:
    """What was seen while the network ran."""

    undisturbed: list[Outcome] = field(default_factory=list)
    rounds: list[list[Outcome]] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    interrupted: int = 0
    """Requests that ran at a miner in the moment it was killed."""
    books: dict[str, EarningsView] = field(default_factory=dict)
    redeemed: dict[str, int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    """Processes of this network that outlived it."""


def request_of(number: int) -> tuple[str, dict[str, object]]:
    """A mix: chats and texts, whole and streamed, greedy and drawn, short and long."""
    question = f"Question {number}: what does Python say about {('lambda', 'classes', 'yield', 'import')[number % 4]}?"
    body: dict[str, object] = {
        "model": MODEL_ID,
        "max_tokens": 16 + 8 * (number % 11),
        "temperature": 0 if number % 3 == 0 else 0.8,
        "seed": number,
        "stream": number % 2 == 0,
    }
    if number % 5 == 4:
        return "/completions", {**body, "prompt": question}
    return "/chat/completions", {**body, "messages": [{"role": "user", "content": question}]}


async def ask(client: httpx.AsyncClient, url: str, number: int) -> Outcome:
    """Ask once, read to the end, never try again: what fails has failed."""
    path, body = request_of(number)
    if not body["stream"]:
        reply = await client.post(url + path, json=body)
        assert reply.status_code == 200, reply.text
        (choice,) = reply.json()["choices"]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return Outcome(text, choice["finish_reason"], reply.json()["usage"]["completion_tokens"])
    body["stream_options"] = {"include_usage": True}
    outcome = Outcome("", "", 0)
    async with client.stream("POST", url + path, json=body) as stream:
        assert stream.status_code == 200, await stream.aread()
        async for line in stream.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            outcome.tokens = (event.get("usage") or {}).get("completion_tokens", outcome.tokens)
            for choice in event["choices"]:
                outcome.text += choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                outcome.finish_reason = choice["finish_reason"] or outcome.finish_reason
    return outcome


async def ask_all(gateway: Daemon) -> list[Outcome]:
    """Ask everything at once."""
    outcomes: dict[int, Outcome] = {}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client, trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            outcomes[number] = await ask(client, gateway.api_url, number)

        for number in range(REQUESTS):
            nursery.start_soon(one, number)
    return [outcomes[number] for number in range(REQUESTS)]


def use_engine_at(daemon: Daemon, url: str) -> None:
    text = daemon.config.read_text(encoding="utf-8")
    daemon.config.write_text(text.replace("\n[[engines]]\n", f'\n[[engines]]\nurl = "{url}"\n'), encoding="utf-8")


async def serving(network: LocalNetwork, executors: int) -> None:
    async def offered() -> bool:
        models = (await network.gateway.call("models", ModelsView)).models
        return any(model.in_epoch and model.executors >= executors for model in models)

    await network.until(f"{executors} executors", offered)


async def status_of(miner: Daemon) -> StatusView | None:
    """Return what a miner says of itself; None if it is dead or just starting."""
    with trio.move_on_after(2):
        try:
            return await miner.call("status", StatusView)
        except Exception:
            return None
    return None


async def kill_in_turn(network: LocalNetwork, observed: Observed, ended: trio.Event) -> None:
    """Kill the next miner every ten seconds, as a power failure would, and start it again at once.

    One that is just starting has nothing to interrupt; and the last one that serves is left alone, for who asks a
    network of dead nodes is told so. Only a machine that needs far longer than ten seconds to start one comes to that.
    """
    turn = 0
    while not ended.is_set() or len(observed.killed) < KILLS_MIN:
        await trio.sleep(KILL_SECONDS)
        number = turn % len(network.miners)
        turn += 1
        views = [await status_of(miner) for miner in network.miners]
        serving = [view is not None and all(engine.ready for engine in view.engines) for view in views]
        view = views[number]
        if view is None or not any(serves for other, serves in enumerate(serving) if other != number):
            continue
        miner = network.miners[number]
        observed.interrupted += view.running_requests
        await miner.kill()
        observed.killed.append(miner.name)
        await network.start(miner)


async def run_under_kills(network: LocalNetwork, observed: Observed) -> None:
    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_in_turn, network, observed, ended)
        while len(observed.killed) < KILLS_MIN or not observed.interrupted:
            assert len(observed.rounds) < ROUNDS_MAX, "the kills interrupted nothing"
            observed.rounds.append(await ask_all(network.gateway))
        ended.set()


async def read_books(network: LocalNetwork, observed: Observed) -> None:
    """Go on to LOAD, when the miners redeem what they hold; then read books and chain."""
    parameters = await network.parameters()
    epoch = stage_at(await network.rpc.block_number(), parameters).epoch
    await network.skip_to(first_block_of(epoch, Stage.LOAD, parameters))

    async def redeemed() -> bool:
        observed.books = {name: await daemon.call("earnings", EarningsView) for name, daemon in network.daemons.items()}
        for miner in network.miners:
            paid = payment_channels.get_channel(network.gateway.account, miner.account)
            channel = await read_contract(network.rpc, network.deployment.addresses.payment_channels, paid)
            observed.redeemed[miner.name] = channel.redeemed
        return all(int(observed.books[m.name].vouchers_received) == observed.redeemed[m.name] for m in network.miners)

    await network.until("vouchers redeemed", redeemed, 500)


def processes_of(directory: Path) -> list[str]:
    """Command lines that name the network's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it ended meanwhile
            if str(directory) in line:
                found.append(line)
    return found


@pytest.fixture(scope="module")
def observed() -> Observed:
    directory = Path(os.environ.get("TMPDIR", "/tmp")) / f"quern-kills-{os.getpid()}"
    seen = Observed()

    async def run() -> None:
        directory.mkdir(mode=0o700)
        async with (
            remote_engine(directory, REMOTE[0], TINY_MODEL, MODEL_ID) as second,
            remote_engine(directory, REMOTE[1], TINY_MODEL, MODEL_ID) as third,
            run_local_network(print, directory, epoch=EPOCH) as network,
        ):
            started = trio.current_time()

            def tell(what: str) -> None:
                network.say(f"{trio.current_time() - started:4.0f} s  {what}")

            await network.initialise()
            for name, url in zip(REMOTE, (second, third), strict=True):
                use_engine_at(network.daemons[name], url)
            await network.deploy()
            await network.publish()
            for daemon in (*network.miners, network.gateway):
                await network.start(daemon)
            await network.until_ready()
            await serving(network, len(network.miners))
            tell("all serve")
            seen.undisturbed = await ask_all(network.gateway)
            tell("everything is answered undisturbed")
            await run_under_kills(network, seen)
            tell(f"{len(seen.rounds)} rounds, {len(seen.killed)} kills")
            await network.until_ready()
            tell(f"all serve again, at block {await network.rpc.block_number()}")
            await read_books(network, seen)
            tell("the books are the chain's")
        seen.left = processes_of(directory)

    try:
        trio.run(run)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return seen


def test_every_request_completes(observed: Observed) -> None:
    assert len(observed.killed) >= KILLS_MIN
    assert observed.interrupted > 0
    for outcomes in observed.rounds:
        assert [o.finish_reason in ("stop", "length") for o in outcomes] == [True] * REQUESTS
        assert all(o.tokens > 0 for o in outcomes)


def test_every_answer_is_that_of_an_undisturbed_run(observed: Observed) -> None:
    for number, outcomes in enumerate(observed.rounds):
        for n in range(REQUESTS):
            if outcomes[n] != observed.undisturbed[n]:
                print(f"round {number}, request {n}: {outcomes[n]!r}\nundisturbed: {observed.undisturbed[n]!r}")  # noqa: T201
    assert all(outcomes == observed.undisturbed for outcomes in observed.rounds)


def test_the_books_are_the_chains(observed: Observed) -> None:
    received = {name: int(book.vouchers_received) for name, book in observed.books.items() if name in observed.redeemed}
    assert received == observed.redeemed
    assert sum(received.values()) > 0


def test_what_was_signed_and_never_arrived_is_less_than_a_step_for_each_interrupted_request(observed: Observed) -> None:
    """A voucher on its way to a miner that died is covered by the next one; of the last, a step may be lost."""
    issued = int(observed.books["gateway"].vouchers_issued)
    received = sum(observed.redeemed.values())
    token_price = 10**12
    assert 0 <= issued - received <= observed.interrupted * STEP_TOKENS_MAX * token_price


def test_no_process_is_left(observed: Observed) -> None:
    assert observed.left == []
