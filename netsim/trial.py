"""A whole population under adversaries and churn, through whole epochs: runs it, and gathers what came of it."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import trio

from netsim.adversaries import CARTEL, STRATEGIES, Scene
from netsim.churn import ALWAYS, Attendance, plan_churn
from netsim.clock import run_deterministically
from netsim.content import ContentExchange
from netsim.disks import Disk, SimulatedBooks
from netsim.engine import PROMPTS_PER_SECOND
from netsim.ledger import CHAIN_ID, EPOCH_MANAGER, Ledger
from netsim.network import Switchboard
from netsim.node import NodePlan, new_disk, run_node
from netsim.population import HONEST, Population
from netsim.progress import tell_epochs
from netsim.scenario import BLOCK_SECONDS, MODEL, MODEL_ID, PARAMETERS
from netsim.trace import Trace
from node.ports import CallFailedError
from node.protocol.calibration import Calibration, HonestBand, default_band
from node.protocol.canonical import CanonicalValue
from node.protocol.eip712 import epoch_result_digest
from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32, TokenAmount
from node.protocol.records import EpochParameters, EpochResult
from node.protocol.stages import Stage, first_block_of
from node.services.epochs import result_from_bytes
from node.services.formed_results import FormedResult, load_formed
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest, Gateway, GatewayError

SAMPLE_SIZE = 64
"""Nonces drawn of each batch: an eighth of the default, for each of them is computed by everybody."""
NONCES_MAX = 96
BAND_DISTANCE_MAX = 160_857
BAND_MISMATCH_PER_MILLION = 281
"""The band that was measured, and p0 (docs/soundness.md)."""
ASKED_AT_ONCE = 16
ANSWER_TOKENS = 40
FIRST_QUESTION_BLOCKS = 8
"""Into SERVE: nodes are registered by then, and have heard of each other and of the group."""
LAST_BLOCKS = 8
"""Into the epoch after the last: rewards are claimed by then."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What to run."""

    population: Population
    nodes: int
    epochs: int
    seed: int
    sample_size: int = SAMPLE_SIZE
    nonces_max: int = NONCES_MAX
    questions: int | None = None
    """Asked of the first node in every epoch; None: twice as many as there are nodes."""


@dataclass(frozen=True, slots=True)
class Participant:
    """One node of a trial."""

    plan: NodePlan
    strategy: str
    attendance: Attendance

    @property
    def account(self) -> Address:
        """Its account."""
        return self.plan.account

    @property
    def is_honest(self) -> bool:
        """Whether it follows the protocol."""
        return self.strategy == HONEST


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over the wire in one epoch."""

    messages: int
    """Gossip messages, counted where they are sent."""
    gossip_bytes: int
    fetched_bytes: int
    """Content, counted where it arrives."""
    seconds: float
    """Of real time, with whatever else the machine does."""
    processor_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial came to."""

    trial: Trial
    parameters: EpochParameters
    participants: tuple[Participant, ...]
    digests: dict[EpochNumber, Hash32]
    """Of the results that were accepted: what members sign."""
    results: dict[EpochNumber, EpochResult]
    """Their contents."""
    formed: dict[Address, dict[EpochNumber, FormedResult]]
    """What each node formed by itself."""
    traffic: tuple[Traffic, ...]
    """By epoch."""
    claimed: dict[Address, TokenAmount]
    minted: TokenAmount
    answers: int
    failed_answers: int
    trace_hash: str


@dataclass(slots=True)
class Meter(Trace):
    """A trace that counts bytes as well."""

    amounts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        Trace.__init__(self)

    def record(self, kind: str, *details: CanonicalValue) -> None:
        """Add a step; the last detail of what goes over the wire is its size."""
        Trace.record(self, kind, *details)
        if kind in ("gossip", "fetched") and isinstance(details[-1], int):
            self.amounts[kind] += details[-1]


@dataclass(slots=True)
class User:
    """Asks the first node's gateway in every epoch, many questions at once."""

    ledger: Ledger
    epochs: int
    questions: int
    answers: int = 0
    failed: int = 0

    async def ask_all(self, gateway: Gateway) -> None:
        """Ask in every epoch's SERVE."""
        for epoch in range(self.epochs):
            await _until(first_block_of(epoch, Stage.SERVE, self.ledger.schedule) + FIRST_QUESTION_BLOCKS, self.ledger)
            limiter = trio.CapacityLimiter(ASKED_AT_ONCE)
            async with trio.open_nursery() as nursery:
                for number in range(self.questions):
                    nursery.start_soon(self._ask, gateway, f"question {number} of epoch {epoch}", limiter)

    async def _ask(self, gateway: Gateway, text: str, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            try:
                request = ChatRequest(MODEL_ID, Prompt((Turn("user", text),)), max_tokens=ANSWER_TOKENS)
                async with gateway.ask(request) as answer:
                    async for _ in answer:
                        pass
                self.answers += 1
            except (GatewayError, CallFailedError):
                self.failed += 1  # as where its executor left in the middle and nobody else had a place


def trial_parameters(trial: Trial) -> EpochParameters:
    """Stages long enough for every node to recompute the sample of every other one."""
    validating_seconds = trial.nodes * trial.sample_size / PROMPTS_PER_SECOND
    validating = 10 + int(1.5 * validating_seconds / BLOCK_SECONDS)
    spread = trial.nodes // 20
    lengths = (20 + spread, 10 + trial.nonces_max // 600, 4, validating, 4 + spread, 12 + spread, 6)
    ends = [sum(lengths[: count + 1]) for count in range(len(lengths))]
    return replace(
        PARAMETERS,
        epoch_blocks=ends[6],
        generate_offset=ends[0],
        exchange_offset=ends[1],
        validate_offset=ends[2],
        vote_exchange_offset=ends[3],
        form_offset=ends[4],
        load_offset=ends[5],
        poc_sample_size=trial.sample_size,
    )


def participants_of(trial: Trial, parameters: EpochParameters) -> tuple[Participant, ...]:
    """Who takes part. The first node is honest, stays, and is the users' gateway."""
    strategies = trial.population.strategies(trial.nodes)
    honest = [number for number, strategy in enumerate(strategies) if strategy == HONEST][1:]
    churning = honest[: len(honest) * trial.population.churning_per_mille // 1000]
    attendances = plan_churn(churning, trial.epochs, parameters, trial.seed)
    return tuple(
        Participant(NodePlan(number, trial.seed, "honest", trial.nonces_max), strategy, attendances.get(number, ALWAYS))
        for number, strategy in enumerate(strategies)
    )


def run_trial(trial: Trial, tell: Callable[[str], None] | None = None) -> Outcome:
    """Run it; `tell` takes lines of progress. The same trial gives the same outcome, but for real time."""

    async def main() -> Outcome:
        return await _run(trial, tell)

    return run_deterministically(main, trial.seed)


async def _run(trial: Trial, tell: Callable[[str], None] | None) -> Outcome:
    parameters = trial_parameters(trial)
    participants = participants_of(trial, parameters)
    trace = Meter()
    present = [one.account for one in participants if one.attendance.spans[0].first == 0]
    ledger = Ledger(
        parameters,
        BLOCK_SECONDS,
        trial.seed,
        trace,
        tuple((account, 1) for account in sorted(present, key=str.lower)),
    )
    ledger.register_model(MODEL)
    ledger.calibrate_model(_calibration())
    if tell is not None:
        tell_epochs(ledger, tell)
    exchange = ContentExchange(trace)
    user = User(ledger, trial.epochs, 2 * trial.nodes if trial.questions is None else trial.questions)
    disks: dict[Address, Disk] = {}
    traffic: list[Traffic] = []
    async with trio.open_nursery() as nursery:
        switchboard = Switchboard(nursery, trial.seed, trace)
        nursery.start_soon(ledger.produce_blocks)
        for participant in participants:
            disks[participant.account] = disk = new_disk(participant.plan, ledger, exchange)
            nursery.start_soon(
                _attend, participant, _scene(participant, participants, trial), disk, ledger, switchboard, exchange,
                user if participant.plan.number == 0 else None,
            )  # fmt: skip
        await trio.sleep(BLOCK_SECONDS / 2)  # what follows happens between two blocks
        for epoch in range(trial.epochs):
            traffic.append(await _epoch(epoch, ledger, trace))
        await _until(first_block_of(trial.epochs, Stage.SERVE, ledger.schedule) + LAST_BLOCKS, ledger)
        nursery.cancel_scope.cancel()
    contents = {cid: data for disk in disks.values() for cid, data in disk.content.blocks.items()}
    return Outcome(
        trial=trial,
        parameters=parameters,
        participants=participants,
        digests={
            epoch: epoch_result_digest(summary, CHAIN_ID, EPOCH_MANAGER)
            for epoch, summary in ledger.state.results.items()
        },
        results=_results(ledger, contents),
        formed={account: _formed(disk, account, trial.epochs) for account, disk in disks.items()},
        traffic=tuple(traffic),
        claimed=dict(ledger.state.claimed),
        minted=ledger.minted,
        answers=user.answers,
        failed_answers=user.failed,
        trace_hash=trace.digest(),
    )


async def _attend(
    participant: Participant,
    scene: Scene,
    disk: Disk,
    ledger: Ledger,
    switchboard: Switchboard,
    exchange: ContentExchange,
    user: User | None,
) -> None:
    """Run a node while it is up."""
    plan = participant.plan
    conduct = STRATEGIES[participant.strategy].conduct(scene)
    disk.content.close()
    for span in participant.attendance.spans:
        await _until(span.first, ledger)
        disk.content.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                run_node, plan, MODEL_ID, ledger, switchboard, exchange, user.ask_all if user else None, conduct, disk
            )
            if span.end is None:
                await trio.sleep_forever()
            await _until(span.end, ledger)
            switchboard.leave(plan.peer_id)
            disk.content.close()
            nursery.cancel_scope.cancel()


async def _epoch(epoch: int, ledger: Ledger, trace: Meter) -> Traffic:
    """Wait for the end of an epoch; return what went on in it."""
    started, worked = time.monotonic(), time.process_time()
    messages, amounts = trace.counts["gossip"], trace.amounts.copy()
    await _until(first_block_of(epoch + 1, Stage.SERVE, ledger.schedule), ledger)
    return Traffic(
        messages=trace.counts["gossip"] - messages,
        gossip_bytes=trace.amounts["gossip"] - amounts["gossip"],
        fetched_bytes=trace.amounts["fetched"] - amounts["fetched"],
        seconds=time.monotonic() - started,
        processor_seconds=time.process_time() - worked,
    )


async def _until(block: int, ledger: Ledger) -> None:
    await trio.sleep(max(0, block - ledger.height) * ledger.block_seconds)


def _are_friends(one: Participant, other: Participant) -> bool:
    return one.strategy == other.strategy or {one.strategy, other.strategy} <= CARTEL


def _scene(participant: Participant, participants: Sequence[Participant], trial: Trial) -> Scene:
    return Scene(
        account=participant.account,
        friends=tuple(one.account for one in participants if _are_friends(one, participant)),
        victim=participants[0].account,
        nonces_max=trial.nonces_max,
        sample_size=trial.sample_size,
    )


def _calibration() -> Calibration:
    band: HonestBand = replace(
        default_band(MODEL),
        poc_distance_max=BAND_DISTANCE_MAX,
        poc_mismatch_per_million=BAND_MISMATCH_PER_MILLION,
    )
    return Calibration(MODEL_ID, MODEL.version, (band,))


def _results(ledger: Ledger, contents: dict[Cid, bytes]) -> dict[EpochNumber, EpochResult]:
    return {
        epoch: result_from_bytes(contents[summary.content_cid], summary)
        for epoch, summary in sorted(ledger.state.results.items())
    }


def _formed(disk: Disk, account: Address, epochs: int) -> dict[EpochNumber, FormedResult]:
    store = SimulatedBooks(disk, account)
    found = {EpochNumber(epoch): load_formed(store, EpochNumber(epoch)) for epoch in range(epochs)}
    return {epoch: formed for epoch, formed in found.items() if formed is not None}
