"""Three epochs with real engines on a real chain: exactly the honest are paid, answers flow, and each fault is named.

Who takes part is in proving_network.py. What follows from what each of them is known to do, to the unit, is in
tests/vectors/three_epochs.json, which plain arithmetic made; it is held against the chain and against what
`quern why-not-paid` says. Every node forms the result by itself, and `quern why-differ` finds them equal.
"""

import itertools
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from contracts.bindings import reward_distributor
from node.api.openai.calls import REQUEST_HEADER
from node.chain.adapter import read_contract
from node.control.client import ControlError
from node.control.poc_views import BatchView, PocView, WhyDifferView
from node.control.receipt_views import ReceiptsView, ReceiptView
from node.control.reward_views import WhyNotPaidView
from node.protocol.events import (
    EpochResultPosted,
    EventBody,
    GroupStored,
    ParticipantPunished,
    PocCommitted,
    RewardClaimed,
    WorkCoinsAdded,
)
from node.protocol.identifiers import Address
from node.protocol.records import EpochParameters
from node.protocol.stages import Stage, stage_at
from node.protocol.verdicts import Offence
from scripts.local_network import MODEL_ID, QUERN
from tests.system.chain_evidence import read_events
from tests.system.make_variants import SECOND
from tests.system.proving_network import (
    EPOCH_SECONDS_MAX,
    EPOCHS,
    FAKER,
    FOUR_BITS_HOST,
    HONEST_PROVERS,
    KEEPER,
    LATE,
    LAZY,
    NONCES,
    PARTICIPANTS,
    WITNESS,
    ProvingNetwork,
    run_proving_network,
)
from tests.vectors import three_epochs

pytestmark = [pytest.mark.system, pytest.mark.timeout(3000)]

PROVING = (Stage.GENERATE, Stage.EXCHANGE, Stage.VALIDATE, Stage.VOTE_EXCHANGE)
SETTLED_SECONDS_MAX = 400.0
PAUSE_SECONDS = 1.0
"""Between two questions: what is tested is that they are answered, not how many."""
ANSWER_TOKENS = 12
RECEIPTS_MAX = 1000
CHEATS = (FAKER, FOUR_BITS_HOST, LAZY)
COVERING = frozenset({KEEPER, WITNESS})
SIGNING = (KEEPER, WITNESS)
"""Without either of them no result has a quorum: both have formed each that was accepted. Others may find it accepted
before they come to it, on a slow machine."""
VECTORS = json.loads(three_epochs.PATH.read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Answer:
    """A question to the gateway and what came of it."""

    model_id: str
    asked_block: int
    answered_block: int
    tokens: int
    """Of the answer; a model of no wit may say nothing that is text."""
    error: str
    request_id: str


@dataclass
class Observed:
    """What was seen while the network ran."""

    accounts: dict[str, Address] = field(default_factory=dict)
    parameters: EpochParameters | None = None
    answers: list[Answer] = field(default_factory=list)
    events: list[tuple[int, EventBody]] = field(default_factory=list)
    claimed: dict[str, int] = field(default_factory=dict)
    """What the distributor says each account has claimed in all."""
    unpaid: dict[tuple[str, int], WhyNotPaidView] = field(default_factory=dict)
    """What `quern why-not-paid EPOCH` said to each participant."""
    compared: dict[tuple[str, int], WhyDifferView] = field(default_factory=dict)
    """What `quern why-differ EPOCH` said to each node that formed a result of that epoch."""
    proofs: dict[int, PocView] = field(default_factory=dict)
    """What `quern poc EPOCH` said."""
    receipts: list[ReceiptView] = field(default_factory=list)
    """What the gateway holds of those who answered."""

    def of(self, kind: type) -> list[Any]:
        return [body for _, body in self.events if isinstance(body, kind)]

    def name_of(self, account: str) -> str:
        return next(name for name, own in self.accounts.items() if own == account)

    def batch(self, epoch: int, name: str, node_id: str = "node-1") -> BatchView:
        return next(
            batch
            for batch in self.proofs[epoch].batches
            if (batch.participant, batch.node_id) == (self.accounts[name], node_id)
        )


async def keep_asking(proving: ProvingNetwork, observed: Observed, model_id: str) -> None:
    """Ask one question after the other through the OpenAI API."""
    url = proving.network.gateway.api_url + "/chat/completions"
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        for number in itertools.count():
            question = f"Question {number}: what does Python say about lambda?"
            body = {"model": model_id, "max_tokens": ANSWER_TOKENS, "messages": [{"role": "user", "content": question}]}
            asked = await proving.block()
            reply = await client.post(url, json=body)
            tokens = reply.json()["usage"]["completion_tokens"] if reply.status_code == 200 else 0
            request_id = reply.headers.get(REQUEST_HEADER, "")
            error = "" if reply.status_code == 200 else reply.text
            found = Answer(model_id, asked, await proving.block(), tokens, error, request_id)
            observed.answers.append(found)
            await trio.sleep(PAUSE_SECONDS)


async def until_block(proving: ProvingNetwork, block: int) -> None:
    async def reached() -> bool:
        return await proving.block() >= block

    await proving.network.until(f"block {block}", reached, EPOCH_SECONDS_MAX)


async def until_punished(proving: ProvingNetwork, observed: Observed) -> None:
    """Wait until somebody was barred: from the epoch on whose proofs begin then."""

    async def punished() -> bool:
        observed.events = await read_events(proving.network.rpc, proving.network.deployment)
        return bool(observed.of(ParticipantPunished))

    await proving.network.until("a punishment", punished, SETTLED_SECONDS_MAX)


async def until_claimed(proving: ProvingNetwork, observed: Observed) -> None:
    """Wait until everybody who is owed something has claimed it all."""

    async def settled() -> bool:
        observed.events = await read_events(proving.network.rpc, proving.network.deployment)
        claimed = {body.account: body.cumulative for body in observed.of(RewardClaimed)}
        owed = sum(body.summary.reward_total for body in observed.of(EpochResultPosted))
        return len(observed.of(EpochResultPosted)) == EPOCHS and sum(claimed.values()) == owed

    await proving.network.until("all rewards claimed", settled, SETTLED_SECONDS_MAX)
    await proving.halt()


async def read_all(proving: ProvingNetwork, observed: Observed) -> None:
    """Read what is left to read: cheats use the command, as any operator would who wonders where the money is."""
    network = proving.network
    for name in PARTICIPANTS:
        daemon = network.daemons[name]
        view = reward_distributor.claimed_of(daemon.account)
        observed.claimed[name] = await read_contract(network.rpc, network.deployment.addresses.reward_distributor, view)
        for epoch in range(EPOCHS):
            if name in CHEATS:
                words = ("why-not-paid", str(epoch), "--data-dir", daemon.directory, "--json")
                said = WhyNotPaidView.model_validate_json(await network.command(QUERN, *words))
            else:
                said = await daemon.call("why_not_paid", WhyNotPaidView, epoch=epoch)
            observed.unpaid[name, epoch] = said
    for name, epoch in itertools.product(network.daemons, range(EPOCHS)):
        if (compared := await why_differ(proving, name, epoch)) is not None:
            observed.compared[name, epoch] = compared
    network.say(f"{len(observed.compared)} results were formed by {len(network.daemons)} nodes")
    keeper = network.daemons[KEEPER]
    observed.proofs = {epoch: await keeper.call("poc", PocView, epoch=epoch) for epoch in range(EPOCHS)}
    observed.receipts = (await network.gateway.call("receipts", ReceiptsView, limit=RECEIPTS_MAX)).receipts


async def why_differ(proving: ProvingNetwork, name: str, epoch: int) -> WhyDifferView | None:
    """Return what a node says of the result it formed, against the accepted one; None if it formed none.

    One asks by the command, which leaves with an error where they differ.
    """
    daemon = proving.network.daemons[name]
    if name == WITNESS:
        words = ("why-differ", str(epoch), "--data-dir", daemon.directory, "--json")
        return WhyDifferView.model_validate_json(await proving.network.command(QUERN, *words))
    try:
        return await daemon.call("why_differ", WhyDifferView, epoch=epoch)
    except ControlError as error:
        assert "formed no result" in str(error)
        return None


async def run_three_epochs(directory: Path, observed: Observed) -> None:
    async with run_proving_network(directory) as proving:
        observed.parameters = proving.parameters
        observed.accounts = {name: proving.network.daemons[name].account for name in PARTICIPANTS}
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proving.keep_pace)
            await until_block(proving, proving.parameters.genesis_block)
            for model_id in (MODEL_ID, SECOND):
                nursery.start_soon(keep_asking, proving, observed, model_id)
            await proving.skip_serving(0)
            await until_block(proving, proving.first_block_of(0, Stage.FORM))
            await proving.join(LATE)
            await proving.until_ready((LATE,))
            for epoch in range(EPOCHS):
                await proving.skip_forming(epoch)
                await until_block(proving, proving.first_block_of(epoch + 1, Stage.SERVE))
                if epoch == 0:
                    await until_punished(proving, observed)
                if epoch + 1 < EPOCHS:
                    await proving.skip_serving(epoch + 1)
            proving.network.say(f"{trio.current_time() - began:4.0f} s  three epochs are over")
            await until_claimed(proving, observed)
            nursery.cancel_scope.cancel()
        proving.network.say(f"{trio.current_time() - began:4.0f} s  all rewards are claimed")
        await read_all(proving, observed)
        proving.network.say(f"{trio.current_time() - began:4.0f} s  all is read")


@pytest.fixture(scope="module")
def observed() -> Observed:
    directory = Path(os.environ.get("TMPDIR", "/tmp")) / f"quern-epochs-{os.getpid()}"
    seen = Observed()
    directory.mkdir(mode=0o700)
    try:
        trio.run(run_three_epochs, directory, seen)
    finally:
        if "QUERN_KEEP" not in os.environ:
            shutil.rmtree(directory, ignore_errors=True)
    return seen


def provers(epoch: int) -> tuple[str, ...]:
    """Whose batches count: the late one's from the second epoch on."""
    return tuple(name for name in HONEST_PROVERS if epoch > 0 or name != LATE)


def predicted(name: str, epoch: int) -> dict[str, Any]:
    """What the vectors say of a participant in an epoch."""
    found: dict[str, Any] = VECTORS["epochs"][epoch]["participants"][name]
    return found


def reasons(observed: Observed, name: str, epoch: int) -> list[tuple[str, str]]:
    return [(part.reason, part.subject) for part in observed.unpaid[name, epoch].parts]


def test_the_network_is_the_one_of_the_vectors(observed: Observed) -> None:
    assert observed.parameters is not None
    assert len(VECTORS["epochs"]) == EPOCHS
    assert VECTORS["nonces"] == NONCES
    assert int(VECTORS["initialSubsidy"]) == observed.parameters.initial_subsidy
    assert VECTORS["halvingEpochs"] == observed.parameters.halving_epochs
    assert int(VECTORS["workCoinsAdded"]) == sum(body.amount for body in observed.of(WorkCoinsAdded))
    for epoch in range(EPOCHS):
        assert VECTORS["epochs"][epoch]["participants"].keys() == set(PARTICIPANTS)
        assert {name for name in PARTICIPANTS if predicted(name, epoch)["weight"]} == set(provers(epoch))


def test_each_epoch_pays_what_the_vectors_predict_and_nothing_else(observed: Observed) -> None:
    totals = dict.fromkeys(PARTICIPANTS, 0)
    for epoch in range(EPOCHS):
        expected = {name: int(predicted(name, epoch)["paid"]) for name in PARTICIPANTS}
        paid = {name: int(observed.unpaid[name, epoch].paid) for name in PARTICIPANTS}
        assert paid == expected, f"epoch {epoch}"
        (summary,) = [b.summary for b in observed.of(EpochResultPosted) if b.summary.epoch == epoch]
        assert summary.reward_total == sum(expected.values())
        for name, amount in expected.items():
            totals[name] += amount
    assert observed.claimed == totals


def test_each_is_told_why_every_unit_was_not_paid_and_nothing_beside(observed: Observed) -> None:
    """Each fault is named with what it cost: all nonces are there, so that the vectors know what that is."""
    for name, epoch in itertools.product(PARTICIPANTS, range(EPOCHS)):
        told, expected = observed.unpaid[name, epoch], predicted(name, epoch)
        parts = [[part.reason, part.subject, part.amount] for part in told.parts]
        assert (told.most, parts) == (expected["most"], expected["parts"]), f"{name} in epoch {epoch}"
        assert sum(int(part.amount) for part in told.parts) == int(told.most) - int(told.paid)
        assert bool(told.why_nothing) == (told.most == "0")


def test_every_node_forms_the_same_result_and_why_differ_says_so(observed: Observed) -> None:
    accepted = {body.summary.epoch: body.summary.content_cid for body in observed.of(EpochResultPosted)}
    assert {(name, epoch) for name in SIGNING for epoch in range(EPOCHS)} <= observed.compared.keys()
    for (name, epoch), said in observed.compared.items():
        assert (said.differences, said.causes) == ([], ["The results are equal."]), f"{name} in epoch {epoch}"
        assert said.ours == accepted[epoch]
    for name, epoch in itertools.product(PARTICIPANTS, range(EPOCHS)):  # and all go by that one
        assert observed.unpaid[name, epoch].evidence == accepted[epoch]


def test_the_group_on_chain_has_the_weights_of_real_nonces_only(observed: Observed) -> None:
    stored = {body.validator_set_hash: body.weights for body in observed.of(GroupStored)}
    for body in observed.of(EpochResultPosted):
        weights = {observed.name_of(account): weight for account, weight in stored[body.summary.validator_set_hash]}
        assert weights == {n: NONCES * (2 if n in COVERING else 1) for n in provers(body.summary.epoch)}


def test_four_bits_lose_every_batch_and_are_told_so(observed: Observed) -> None:
    """And no collateral: weights that are only rounded are no farther off than some band that is too narrow."""
    for epoch in range(EPOCHS):
        batch = observed.batch(epoch, FOUR_BITS_HOST)
        assert batch.fate == "rejected"
        assert batch.mismatches == batch.sampled > 0
        assert reasons(observed, FOUR_BITS_HOST, epoch) == [("mismatches", "node-1")]
        assert observed.unpaid[FOUR_BITS_HOST, epoch].paid == "0"


def test_made_up_nonces_are_fraud_at_once_and_their_owner_is_barred_from_then_on(observed: Observed) -> None:
    batch = observed.batch(0, FAKER)
    assert batch.fate == "rejected"
    assert batch.mismatches == batch.sampled > 0
    assert reasons(observed, FAKER, 0) == [("mismatches", "node-1")]
    punished = {(body.participant, body.offence) for body in observed.of(ParticipantPunished)}
    assert punished == {(observed.accounts[FAKER], Offence.FRAUD)}
    for epoch in range(1, EPOCHS):
        assert reasons(observed, FAKER, epoch) == [("not-counted", "node-1")]


def test_the_lazy_validator_is_paid_for_its_nonces_and_not_for_its_votes(observed: Observed) -> None:
    for epoch in range(1, EPOCHS):
        assert reasons(observed, LAZY, epoch) == [("coverage", ""), ("not-computed", "participation")]
    assert reasons(observed, LAZY, 0) == [("coverage", "")]


def test_who_joins_late_is_paid_from_its_first_batch_on(observed: Observed) -> None:
    nothing = observed.unpaid[LATE, 0]
    assert (nothing.most, nothing.parts) == ("0", [])
    assert nothing.why_nothing.startswith("no batch of its got into a block in time")
    for epoch in range(1, EPOCHS):
        assert int(observed.unpaid[LATE, epoch].paid) > 0


def test_the_honest_lack_nothing_but_the_bonus_for_all_models(observed: Observed) -> None:
    for name, epoch in itertools.product((KEEPER, WITNESS, LATE), range(EPOCHS)):
        lacks = [("coverage", "")] if name == LATE and epoch > 0 else []
        assert reasons(observed, name, epoch) == lacks


def test_of_each_model_a_node_keeps_serving_through_proof_of_compute_and_keeps_its_weight(observed: Observed) -> None:
    committed = {(b.commit.epoch, b.commit.participant, b.commit.node_id) for b in observed.of(PocCommitted)}
    assert not any(batch.fate == "preserved" for batch in observed.proofs[0].batches)
    for epoch in range(1, EPOCHS):
        kept = [batch for batch in observed.proofs[epoch].batches if batch.fate == "preserved"]
        assert {batch.model_id for batch in kept} == {MODEL_ID, SECOND}
        assert all(batch.weight == NONCES for batch in kept)
        assert not {(epoch, batch.participant, batch.node_id) for batch in kept} & committed


def test_a_node_that_keeps_serving_answers_while_others_prove(observed: Observed) -> None:
    executors = {receipt.request_id: (receipt.executor, receipt.node_id) for receipt in observed.receipts}
    for epoch in range(1, EPOCHS):
        kept = {(b.participant, b.node_id) for b in observed.proofs[epoch].batches if b.fate == "preserved"}
        answered = [executors.get(answer.request_id) for answer in within(observed, epoch, PROVING)]
        assert any(executor in kept for executor in answered), f"epoch {epoch}: {kept}, {answered}"


def test_every_question_is_answered_also_through_proof_of_compute(observed: Observed) -> None:
    assert [answer for answer in observed.answers if answer.error or not answer.tokens] == []
    for epoch in range(EPOCHS):
        for stages in ((Stage.GENERATE, Stage.EXCHANGE), (Stage.VALIDATE, Stage.VOTE_EXCHANGE)):
            assert {answer.model_id for answer in within(observed, epoch, stages)} == {MODEL_ID, SECOND}, (
                epoch,
                stages,
            )


def within(observed: Observed, epoch: int, stages: tuple[Stage, ...]) -> list[Answer]:
    """Answers that were asked for and came within these stages."""
    assert observed.parameters is not None
    found = []
    for answer in observed.answers:
        both = [stage_at(block, observed.parameters) for block in (answer.asked_block, answer.answered_block)]
        if all(where.epoch == epoch and where.stage in stages for where in both):
            found.append(answer)
    return found
