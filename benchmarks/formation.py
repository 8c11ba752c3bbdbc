"""How long a node takes to form the result of a large epoch: 1,000 participants, 10 models, 5 nodes each, on one core.

The group in charge has as many members as the contract takes (512). Each has committed a bundle with a vote on every
batch of the models it serves, one of 7.5 with a nonce that differs, a vote on each answer that it was drawn to audit
from books of 1,000 answers, a check of each validator that it was drawn to check, sightings of all others and
measurements of a hundred. Samples have 512 nonces. Three parts are measured, each on one core: reading all bundles
(bytes to records), checking them, and forming, from checked bundles to the canonical bytes and the summary. A daemon
reads and checks as bundles are committed, in VOTE_EXCHANGE (node/services/early_bundles.py), so that FORM waits for
forming and for what came last. The goal is of forming; the sum, which a daemon spends in FORM that was not there
before, is printed beside it. Content is not fetched, nothing is signed.
"""

import argparse
import functools
import gc
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from eth_utils.address import to_checksum_address

from node.protocol.audit_sampling import AuditorLots, AuditSeeds, draws_of
from node.protocol.audit_votes import audit_order
from node.protocol.bundle_reading import audits_due, limits_of, read_bundle_in_slices
from node.protocol.bundles import check_bundle
from node.protocol.chain_state import ChainState
from node.protocol.codec import to_bytes
from node.protocol.events import (
    ChainEvent,
    EventBody,
    GroupSet,
    MLNodeSet,
    ModelRecorded,
    ParticipantRegistered,
    PocCommitted,
)
from node.protocol.findings import (
    AuditFigures,
    AuditVote,
    CommittedBook,
    Observations,
    ReceiptBook,
    ServedTokens,
    Sighting,
    SpeedMeasure,
    VoteCheck,
)
from node.protocol.identifiers import (
    Address,
    BlockNumber,
    Cid,
    EpochNumber,
    Hash32,
    ModelId,
    NodeId,
    PeerId,
    TokenAmount,
)
from node.protocol.judges import Judges, judges_for
from node.protocol.nonces import draw_sample
from node.protocol.records import (
    EpochGroup,
    EpochParameters,
    EpochResult,
    MLNodeRegistration,
    ModelRecord,
    PocCommit,
    PocVote,
    VoteBundle,
)
from node.protocol.results import form_epoch_result, summarise
from node.protocol.slices import finish
from node.protocol.tails import checkers_of
from node.protocol.timeslots import select_poc_slots
from node.protocol.validation import rules_of
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey

PARTICIPANTS = 1000
MODELS = 10
NODES = 5
NONCES_MAX = 20_000
MEASURED = 100
FOUNDERS = 16
"""Members of the first group: its epoch only makes the one that is measured."""
DIFFERING_VOTES = 1 / 7.5
"""Of votes, those that name a nonce."""
HONEST = AuditFigures(256, 1, 100, 256, 5_000, 1_000, 400_000_000)
AIM_SECONDS = 10.0
SOME_CID = Cid("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
SEED = Hash32(b"\x05" * 32)
BOOK = ReceiptBook(1_000, 256_000, Hash32(b"\x01" * 32), SOME_CID)
PARAMETERS = EpochParameters(
    genesis_block=BlockNumber(0),
    epoch_blocks=7200,
    generate_offset=4000,
    exchange_offset=5000,
    validate_offset=5200,
    vote_exchange_offset=6200,
    form_offset=6400,
    load_offset=6800,
    poc_sample_size=512,
    poc_reject_mismatches=3,
    unit_price=TokenAmount(7),
    initial_subsidy=TokenAmount(900 * 10**18),
    halving_epochs=1000,
)


Checkers = Callable[[Address, ModelId], frozenset[Address]]


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one core."""

    reading: float
    checking: float
    forming: float

    @property
    def together(self) -> float:
        """What it takes a daemon that reads no bundle before FORM."""
        return self.reading + self.checking + self.forming


@dataclass(frozen=True, slots=True)
class Scene:
    """A network of some size, and one epoch's evidence after another."""

    accounts: tuple[Address, ...]
    served: dict[NodeKey, ModelId]
    source: random.Random

    def state(self, epoch: EpochNumber, group: tuple[tuple[Address, int], ...]) -> ChainState:
        """The chain before FORM of `epoch`, in which every node has committed a batch."""
        bodies: list[EventBody] = [ModelRecorded(model_record(ModelId(f"model-{index}"))) for index in range(MODELS)]
        for number, account in enumerate(self.accounts):
            bodies.append(ParticipantRegistered(account, PeerId(f"12D3Koo{number}"), consented=True))
            bodies += [
                MLNodeSet(account, MLNodeRegistration(node_id, (model_id,), "H200"))
                for (owner, node_id), model_id in self.served.items()
                if owner == account
            ]
        bodies.append(GroupSet(epoch, group))
        for number, ((account, node_id), model_id) in enumerate(self.served.items()):
            root = Hash32(number.to_bytes(16) + epoch.to_bytes(16))
            count = self.source.randint(NONCES_MAX // 2, NONCES_MAX)
            bodies.append(PocCommitted(PocCommit(epoch, account, node_id, model_id, count, root, SOME_CID)))
        state = ChainState()
        for index, body in enumerate(bodies):
            state.apply(ChainEvent(BlockNumber(index), Hash32(index.to_bytes(32)), 0, body))
        return state

    def bundles(self, epoch: EpochNumber, state: ChainState, members: list[Address]) -> dict[Address, VoteBundle]:
        """What each member committed."""
        commits = state.poc_commits[epoch]
        ordered = sorted(commits, key=lambda key: (key[0].lower(), key[1]))
        samples = {key: draw_sample(SEED, *key, commits[key].count, PARAMETERS.poc_sample_size) for key in ordered}
        models = {account: set[ModelId]() for account in self.accounts}
        for (account, _), model_id in self.served.items():
            models[account].add(model_id)
        everyone = sorted(self.accounts, key=str.lower)
        bundles = {}
        for member in members:
            votes = tuple(
                PocVote(*key, Verdict.VALID, PARAMETERS.poc_sample_size, self._differing(samples[key]), "")
                for key in ordered
                if key[0] != member and commits[key].model_id in models[member]
            )
            asked = sorted(self.source.sample(everyone, min(MEASURED, len(everyone))), key=str.lower)
            observed = Observations(
                tuple(Sighting(other, self.source.randint(950, 1000)) for other in everyone if other != member),
                tuple(
                    SpeedMeasure(other, ModelId("model-0"), 20, self.source.randint(100, 300), 20_000)
                    for other in asked
                ),
                tuple(ServedTokens(model_id, (10**6, 10**5)) for model_id in sorted(models[member])),
            )
            bundles[member] = VoteBundle(
                epoch, member, votes, receipts=BOOK, evidence_cid=SOME_CID, observations=observed
            )
        return bundles

    def _differing(self, sample: tuple[int, ...]) -> tuple[int, ...]:
        """One of a batch's first six drawn nonces, so that judges agree on some; mostly none."""
        return (self.source.choice(sample[:6]),) if self.source.random() < DIFFERING_VOTES else ()


def with_judgements(
    bundles: Mapping[Address, VoteBundle],
    group: EpochGroup,
    books: tuple[CommittedBook, ...],
    judges: Judges,
    checkers: Checkers,
) -> dict[Address, VoteBundle]:
    """Return the bundles with votes on audited answers and checks of the validators of the epoch before."""
    lots, source = AuditorLots(SEED, group), random.Random(3)
    audits: dict[Address, list[AuditVote]] = {member: [] for member in bundles}
    node_of = {member.participant: member.ml_nodes[0] for member in group.members}
    for committed in books:
        node = node_of[committed.executor]
        for draw in range(draws_of(committed.book)):
            names = (committed.executor, draw, node.node_id, node.model_id, Hash32(source.randbytes(32)))
            for auditor in lots.seats(committed.executor, draw):
                audits[auditor].append(AuditVote(*names, Verdict.VALID, HONEST, ""))
    checks: dict[Address, list[VoteCheck]] = {member: [] for member in bundles}
    for validator in sorted(bundles, key=str.lower):
        for model_id in judges.models_to_check(validator):
            for checker in checkers(validator, model_id):
                checks[checker].append(VoteCheck(validator, model_id, Verdict.VALID, 24, 0, ""))
    return {
        member: replace(bundle, audits=tuple(sorted(audits[member], key=audit_order)), checks=tuple(checks[member]))
        for member, bundle in bundles.items()
    }


def main() -> int:
    """Measure, print, and return 1 where the aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=PARTICIPANTS)
    arguments = parser.parse_args()
    scene = _scene(arguments.participants)
    founders = tuple((account, 100) for account in _sorted(scene)[:FOUNDERS])
    first, _ = _epoch(scene, EpochNumber(0), founders, None)
    group = tuple((member.participant, member.weight) for member in first.group.members)
    result, spent = _epoch(scene, EpochNumber(1), group, first)
    print(
        f"members {len(result.group.members)}, nodes {len(result.nodes)}, result {len(to_bytes(result)) / 1e6:.2f} MB"
    )
    print(
        f"epoch formation, seconds of one core: forming {spent.forming:.2f}, aim {AIM_SECONDS:.0f}; "
        f"before it, as bundles come in, reading {spent.reading:.2f} and checking {spent.checking:.2f}; "
        f"all together {spent.together:.2f}"
    )
    return 0 if spent.forming <= AIM_SECONDS else 1


def _epoch(
    scene: Scene, epoch: EpochNumber, group: tuple[tuple[Address, int], ...], previous: EpochResult | None
) -> tuple[EpochResult, Spent]:
    state = scene.state(epoch, group)
    rules = rules_of(state.poc_commits[epoch], state, PARAMETERS)
    bundles, weights = scene.bundles(epoch, state, [account for account, _ in group]), dict(group)
    voted_before = frozenset[Address]() if previous is None else frozenset(weights)
    judges = judges_for(epoch, weights, state, None if previous is None else previous.group)

    @functools.cache
    def checkers(validator: Address, model_id: ModelId) -> frozenset[Address]:
        return checkers_of(SEED, validator, judges.able_to_check(validator, model_id, weights))

    if previous is not None:
        books = tuple(CommittedBook(account, BOOK) for account in sorted(weights, key=str.lower))
        previous = replace(previous, books=books)
        bundles = with_judgements(bundles, previous.group, books, judges, checkers)
        checkers.cache_clear()
    encoded = [to_bytes(bundle) for bundle in bundles.values()]
    possible = sum(len(judges.models_to_check(validator)) for validator in voted_before)
    limits = limits_of(state.poc_commits[epoch], rules, possible, audits_due(previous))
    gc.collect()
    gc.freeze()
    began = time.process_time()
    for content in encoded:
        finish(read_bundle_in_slices(content, limits))
    read = time.process_time()
    for member, bundle in bundles.items():
        check_bundle(
            bundle,
            epoch,
            member,
            state.poc_commits[epoch],
            rules,
            sample_seed=SEED,
            checkers=checkers,
            checked=voted_before,
        )
    checked = time.process_time()
    votes = sum(len(bundle.votes) for bundle in bundles.values())
    size = sum(len(content) for content in encoded) / len(encoded)
    selected = frozenset[NodeKey]()
    if previous is not None:
        selected = select_poc_slots(previous.group, previous.nodes, state, SEED)
    drawn = time.process_time()
    seeds = None if previous is None else AuditSeeds(SEED, SEED)
    result = form_epoch_result(
        epoch, state, PARAMETERS, bundles, previous, rules=rules, audit_seeds=seeds, selected=selected
    )
    formed = time.process_time()
    if result is None:
        raise AssertionError("every batch is accepted")
    data = to_bytes(result)
    summarise(result, SOME_CID)
    done = time.process_time()
    audits = sum(len(bundle.audits) for bundle in bundles.values())
    checks = sum(len(bundle.checks) for bundle in bundles.values())
    print(
        f"epoch {epoch}: {len(bundles)} bundles of {size / 1e3:.0f} kB, {votes} votes, {audits} on answers, "
        f"{checks} checks; "
        f"read in {read - began:.2f} s ({1000 * (read - began) / len(encoded):.1f} ms each), "
        f"checked in {checked - read:.2f} s; "
        f"{len(selected)} nodes selected in {drawn - checked:.2f} s, formed in {formed - drawn:.2f} s, "
        f"{len(data)} bytes encoded and summarised in {done - formed:.2f} s"
    )
    return result, Spent(read - began, checked - read, done - checked)


def _scene(participants: int) -> Scene:
    source = random.Random(1)
    accounts = tuple(Address(to_checksum_address(source.randbytes(20))) for _ in range(participants))
    served = {
        (account, NodeId(f"node-{index}")): ModelId(f"model-{model}")
        for account in accounts
        for index, model in enumerate(source.sample(range(MODELS), NODES))
    }
    return Scene(accounts, served, source)


def _sorted(scene: Scene) -> list[Address]:
    return sorted(scene.accounts, key=str.lower)


def model_record(model_id: ModelId) -> ModelRecord:
    """Return a record of a model as any may be."""
    return ModelRecord(
        model_id=model_id,
        cid=SOME_CID,
        name=model_id,
        description="",
        active=True,
        version=1,
        hf_repo="",
        hf_commit="",
        model_args=(),
        vram_mib=0,
        throughput_per_nonce=10,
        units_of_compute_per_token=1,
        context_length=4096,
        poc_distance_max=1_000_000,
        quantization="",
        kv_cache_quantization="",
        gated=False,
        encrypted=False,
        proposer=Address("0x00000000000000000000000000000000000000D1"),
    )


if __name__ == "__main__":
    sys.exit(main())
