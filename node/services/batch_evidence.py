"""What a batch was judged by: each judge's vote with its evidence, and the same computed here.

Purpose: whoever was rejected sees who said what and by how far its nonces differ, and anybody who has the model can
judge the batch again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import trio

from node.ports import BadContentError, Content, ContentUnavailableError, Engine
from node.protocol.bundles import BundleError
from node.protocol.codec import SchemaError
from node.protocol.identifiers import Address, Cid
from node.protocol.nonces import VECTOR_BYTES, squared_distance
from node.protocol.records import PocVote
from node.protocol.weights import NodeKey
from node.services import vote_evidence
from node.services.judging import Judging
from node.services.presence import PresenceTable
from node.services.recomputing import recompute, while_ready
from node.services.slicing import Slicer
from node.services.validating import root_of
from node.services.vote_evidence import EvidenceDiffersError, ReadFigures, evidence_bytes_max

FETCHED_AT_ONCE = 8
FETCH_SECONDS_MAX = 15.0
"""For all together: an operator waits for it."""
NOT_FETCHED = "its votes are not to be had now"
NO_EVIDENCE = "the evidence of its votes is not to be had now"


@dataclass(frozen=True, slots=True)
class JudgesWord:
    """What one validator says of a batch, as far as it is to be had."""

    validator: Address
    bundle: Cid
    evidence: Cid | None = None
    vote: PocVote | None = None
    """None where its bundle does not name the batch, or is not to be had."""
    figures: ReadFigures | None = None
    """None where it did not recompute the sample, or its evidence is not to be had."""
    problem: str = ""
    """Why something is missing, for people."""


class VectorsError(Exception):
    """The batch cannot be judged here; the message says why."""


async def words_of_judges(
    content: Content, presence: PresenceTable, judging: Judging, committed: Mapping[Address, Cid], key: NodeKey
) -> list[JudgesWord]:
    """Return what all who committed votes say of the batch `key`, as far as it comes within FETCH_SECONDS_MAX."""
    found = {validator: JudgesWord(validator, cid, problem=NOT_FETCHED) for validator, cid in committed.items()}
    limit, slicer = trio.CapacityLimiter(FETCHED_AT_ONCE), Slicer()

    async def ask(validator: Address) -> None:
        async with limit:
            await _fetch_word(content, presence, judging, key, found, validator, slicer)

    with trio.move_on_after(FETCH_SECONDS_MAX):
        async with trio.open_nursery() as nursery:
            for validator in committed:
                nursery.start_soon(ask, validator)
    return list(found.values())


async def _fetch_word(
    content: Content,
    presence: PresenceTable,
    judging: Judging,
    key: NodeKey,
    found: dict[Address, JudgesWord],
    validator: Address,
    slicer: Slicer,
) -> None:
    cid, providers = found[validator].bundle, presence.providers(validator)
    try:
        data = await content.read_bytes(cid, providers, limit_bytes=judging.bundle_limits.bytes_max)
        bundle = await slicer.run(judging.read(data))
        judging.check(bundle, validator)
    except ContentUnavailableError:
        return
    except (BadContentError, SchemaError, BundleError) as error:
        found[validator] = JudgesWord(validator, cid, problem=f"its votes are void: {str(error)[:200]}")
        return
    vote = next((vote for vote in bundle.votes if (vote.participant, vote.node_id) == key), None)
    word = JudgesWord(validator, cid, bundle.evidence_cid, vote)
    if vote is None or not vote.sampled or bundle.evidence_cid is None:
        found[validator] = word
        return
    found[validator] = JudgesWord(validator, cid, bundle.evidence_cid, vote, problem=NO_EVIDENCE)
    try:
        data = await content.read_bytes(bundle.evidence_cid, providers, limit_bytes=evidence_bytes_max(bundle))
        figures = (await slicer.run(vote_evidence.read_evidence(data, bundle, judging)))[key]
    except ContentUnavailableError:
        return
    except (BadContentError, SchemaError, EvidenceDiffersError) as error:
        problem = f"its evidence does not carry its vote: {str(error)[:200]}"
        found[validator] = JudgesWord(validator, cid, bundle.evidence_cid, vote, problem=problem)
        return
    found[validator] = JudgesWord(validator, cid, bundle.evidence_cid, vote, figures)


async def recompute_distances(
    content: Content, presence: PresenceTable, engine: Engine, judging: Judging, key: NodeKey, own: Address
) -> tuple[int, ...]:
    """Return the squared distance of each nonce of the sample from what `engine` makes of it, in the sample's order.

    Raises ContentUnavailableError, VectorsError where the file is not what was committed, and of the engine
    EngineRefusedError and ModelGoneError.
    """
    commit, model = judging.commits[key], judging.models[judging.commits[key].model_id]
    try:
        data = await content.read_bytes(
            commit.vectors_cid, presence.providers(key[0]), limit_bytes=commit.count * VECTOR_BYTES
        )
    except BadContentError as error:
        raise VectorsError(f"the file of vectors is not what was committed: {error}") from error
    if len(data) != commit.count * VECTOR_BYTES:
        raise VectorsError(f"the file of vectors has {len(data)} bytes, and {commit.count} nonces were committed")
    if await root_of(data) != commit.root:
        raise VectorsError("the file of vectors has another root than was committed")
    sample = judging.sample_of(key)
    made = await while_ready(
        engine,
        commit.model_id,
        lambda may_go_on: recompute(
            engine, model, key, sample, judging.generate_seed, judging.sample_seed, own, may_go_on=may_go_on
        ),
    )
    return tuple(
        squared_distance(data[nonce * VECTOR_BYTES : (nonce + 1) * VECTOR_BYTES], vector)
        for nonce, vector in zip(sample, made.vectors, strict=True)
    )
