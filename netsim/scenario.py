"""The first scenario: honest nodes and one that proves with another model, through whole epochs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from netsim.clock import run_deterministically
from netsim.content import ContentExchange
from netsim.ledger import Ledger
from netsim.network import Switchboard
from netsim.node import NodePlan, run_node
from netsim.progress import tell_epochs
from netsim.trace import Trace
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, ModelId, TokenAmount
from node.protocol.records import EpochParameters, ModelRecord
from node.protocol.stages import Stage, first_block_of
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest, Gateway

MODEL_ID = ModelId("simulated")
BLOCK_SECONDS = 2.0
NONCES_MAX = 64
CHEATS = 1
PARAMETERS = EpochParameters(
    genesis_block=BlockNumber(0),
    epoch_blocks=60,
    generate_offset=15,
    exchange_offset=25,
    validate_offset=29,
    vote_exchange_offset=39,
    form_offset=43,
    load_offset=53,
    poc_sample_size=8,
    poc_reject_mismatches=3,
    unit_price=TokenAmount(10**12),
    initial_subsidy=TokenAmount(1000 * 10**18),
    halving_epochs=100,
)
MODEL = ModelRecord(
    model_id=MODEL_ID,
    cid=Cid("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"),
    name="Simulated",
    description="What netsim/engine.py computes.",
    active=True,
    version=1,
    hf_repo="",
    hf_commit="",
    model_args=(),
    vram_mib=0,
    throughput_per_nonce=10,
    units_of_compute_per_token=1,
    context_length=512,
    poc_distance_max=1_000_000,
    quantization="",
    kv_cache_quantization="",
    gated=False,
    encrypted=False,
    proposer=Address("0x00000000000000000000000000000000000000D1"),
)
QUESTIONS = 6
ANSWER_TOKENS = 40
FIRST_QUESTION_SECONDS = 20.0
"""By then nodes are registered and have heard of each other."""
SETTLE_BLOCKS = 8
"""Blocks into the epoch after the last: claims are confirmed by then."""


@dataclass(frozen=True, slots=True)
class EpochOutcome:
    """What the ledger holds of one epoch."""

    epoch: EpochNumber
    posted: bool
    weights: tuple[tuple[Address, int], ...]
    """The group this epoch formed."""
    reward_total: TokenAmount


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    epochs: tuple[EpochOutcome, ...]
    honest: tuple[Address, ...]
    cheats: tuple[Address, ...]
    answers: int
    answer_price: int
    """What the gateway paid for all answers, by its own count."""
    redeemed: int
    """What the ledger paid out for vouchers."""
    claimed: dict[Address, TokenAmount]
    minted: TokenAmount
    events: int
    messages: int
    virtual_seconds: float
    trace_hash: str


@dataclass(slots=True)
class User:
    """Asks QUESTIONS questions of one gateway, one after the other."""

    trace: Trace
    answers: int = 0
    price: int = 0

    async def ask_all(self, gateway: Gateway) -> None:
        """Ask, and note what came and what it cost."""
        await trio.sleep(FIRST_QUESTION_SECONDS)
        for number in range(QUESTIONS):
            turns = (Turn("user", f"question number {number}"),)
            async with gateway.ask(ChatRequest(MODEL_ID, Prompt(turns), max_tokens=ANSWER_TOKENS)) as answer:
                tokens = [token async for part in answer for token in part.token_ids]
            self.answers += 1
            self.price += answer.summary.price
            self.trace.record("answer", tokens, list(answer.summary.executors), str(answer.summary.price))


OwnerActs = Mapping[int, Callable[[Ledger], None]]
"""What the network's owner does right after which block."""


def run_scenario(
    *,
    nodes: int,
    epochs: int,
    seed: int,
    owner_acts: OwnerActs | None = None,
    tell: Callable[[str], None] | None = None,
) -> Outcome:
    """Run `nodes` nodes, the last CHEATS of them dishonest, through `epochs` epochs. `tell` takes lines of progress."""
    if nodes < CHEATS + 3:
        raise ValueError(f"at least {CHEATS + 3} nodes are needed for a majority of honest ones")

    async def main() -> Outcome:
        return await _run(nodes, epochs, seed, owner_acts or {}, tell)

    return run_deterministically(main, seed)


async def _run(
    nodes: int, epochs: int, seed: int, owner_acts: OwnerActs, tell: Callable[[str], None] | None
) -> Outcome:
    plans = [
        NodePlan(number, seed, "honest" if number < nodes - CHEATS else "another", NONCES_MAX)
        for number in range(nodes)
    ]
    accounts = [plan.account for plan in plans]
    trace = Trace()
    group = tuple((account, 1) for account in sorted(accounts, key=str.lower))
    ledger = Ledger(PARAMETERS, BLOCK_SECONDS, seed, trace, group)
    ledger.register_model(MODEL)
    if tell is not None:
        tell_epochs(ledger, tell)
    exchange = ContentExchange(trace)
    user = User(trace)
    async with trio.open_nursery() as nursery:
        switchboard = Switchboard(nursery, seed, trace)
        nursery.start_soon(ledger.produce_blocks)
        for plan in plans:
            asking = user.ask_all if plan.number == 0 else None
            nursery.start_soon(run_node, plan, MODEL_ID, ledger, switchboard, exchange, asking)
        await trio.sleep(BLOCK_SECONDS / 2)  # what follows happens between two blocks
        for block, act in sorted(owner_acts.items()):
            await _until_after(block, ledger)
            act(ledger)
        await _until_after(first_block_of(epochs, Stage.SERVE, ledger.schedule) + SETTLE_BLOCKS, ledger)
        nursery.cancel_scope.cancel()
    return Outcome(
        epochs=tuple(_outcome(EpochNumber(epoch), ledger) for epoch in range(epochs)),
        honest=tuple(accounts[: nodes - CHEATS]),
        cheats=tuple(accounts[nodes - CHEATS :]),
        answers=user.answers,
        answer_price=user.price,
        redeemed=sum(channel.redeemed for channel in ledger.state.channels.values()),
        claimed=dict(ledger.state.claimed),
        minted=ledger.minted,
        events=len(ledger.events),
        messages=trace.counts["gossip"],
        virtual_seconds=trio.current_time(),
        trace_hash=trace.digest(),
    )


async def _until_after(block: int, ledger: Ledger) -> None:
    await trio.sleep((block - ledger.height) * BLOCK_SECONDS)


def _outcome(epoch: EpochNumber, ledger: Ledger) -> EpochOutcome:
    summary = ledger.state.results.get(epoch)
    return EpochOutcome(
        epoch=epoch,
        posted=summary is not None,
        weights=ledger.state.groups.get(EpochNumber(epoch + 1), ()),
        reward_total=summary.reward_total if summary else TokenAmount(0),
    )
