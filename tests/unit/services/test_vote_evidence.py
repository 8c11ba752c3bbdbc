"""Evidence of votes: what it says is read as the codec reads it, and what is too much of it costs nobody anything."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.codec import SLOW_BYTES_MAX, SchemaError, from_bytes, to_bytes
from node.protocol.findings import VoteEvidence, VoteFigures
from node.protocol.identifiers import EpochNumber, NodeId
from node.protocol.records import PocVote, VoteBundle
from node.protocol.slices import finish
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from node.services.vote_evidence import (
    EVIDENCE_BYTES_MAX,
    EvidenceDiffersError,
    evidence_bytes_max,
    read_evidence,
)
from tests.builders import account, bundle_of, model

SAMPLED = 600
MODEL = model()
LONGEST = NodeId("n" * 64)


def judging_of(keys: list[NodeKey]) -> Any:
    commit = SimpleNamespace(model_id=MODEL.model_id)
    return SimpleNamespace(
        models={MODEL.model_id: MODEL},
        commits=dict.fromkeys(keys, commit),
        rules=dict.fromkeys(keys, SimpleNamespace(distance_max=10**9)),
        sample_of=lambda _: tuple(range(SAMPLED)),
    )


def scene(batches: int = 3) -> tuple[VoteBundle, VoteEvidence, Any]:
    """Honest votes of account 5 on that many batches, their evidence, and what they are judged by."""
    keys = [(account(2), NodeId(f"node-{number:02}")) for number in range(batches)]
    votes = [PocVote(*key, Verdict.VALID, SAMPLED, (), "") for key in keys]
    figures = [VoteFigures(*key, tuple(range(SAMPLED)), tuple(range(7, 7 + SAMPLED))) for key in keys]
    bundle = bundle_of(5, *votes)
    return bundle, VoteEvidence(bundle.epoch, account(5), tuple(figures)), judging_of(keys)


BUNDLE, EVIDENCE, JUDGING = scene()


def read(data: bytes, bundle: VoteBundle = BUNDLE, judging: Any = JUDGING) -> tuple[VoteFigures, ...]:
    found = finish(read_evidence(data, bundle, judging))
    return tuple(VoteFigures(*key, tuple(told.distances), tuple(told.tails)) for key, told in found.items())


def test_what_it_says_is_handed_over_batch_by_batch() -> None:
    assert read(to_bytes(EVIDENCE)) == EVIDENCE.figures


def test_honest_evidence_with_the_longest_names_and_numbers_is_never_too_long() -> None:
    longest = VoteFigures(account(2), LONGEST, (2**63 - 1,) * SAMPLED, (10**6,) * SAMPLED)
    evidence = VoteEvidence(EpochNumber(10**9), account(5), (longest,) * 50)
    bundle = bundle_of(5, *[PocVote(account(2), LONGEST, Verdict.VALID, SAMPLED, (), "")] * 50)
    assert len(to_bytes(evidence)) <= evidence_bytes_max(bundle) < 2 * len(to_bytes(evidence))
    assert evidence_bytes_max(bundle_of(5)) < 2000
    many = [PocVote(account(2), LONGEST, Verdict.VALID, SAMPLED, (), "")] * 10_000
    assert evidence_bytes_max(bundle_of(5, *many)) == EVIDENCE_BYTES_MAX


@pytest.mark.parametrize(
    "change",
    [
        lambda told: replace(told, epoch=EpochNumber(9)),
        lambda told: replace(told, validator=account(6)),
        lambda told: replace(told, figures=told.figures[1:]),
        lambda told: replace(told, figures=(*told.figures, told.figures[0])),
        lambda told: replace(told, figures=told.figures[::-1]),
        lambda told: replace(told, figures=(replace(told.figures[0], tails=()), *told.figures[1:])),
        lambda told: replace(told, figures=(replace(told.figures[0], tails=(-1,) * SAMPLED), *told.figures[1:])),
        lambda told: replace(told, figures=(replace(told.figures[0], distances=(1,)), *told.figures[1:])),
        lambda told: replace(
            told, figures=(replace(told.figures[0], distances=(2 * 10**9,) * SAMPLED), *told.figures[1:])
        ),
    ],
)
def test_what_does_not_say_what_the_votes_say_is_refused(change: Callable[[VoteEvidence], VoteEvidence]) -> None:
    with pytest.raises(EvidenceDiffersError):
        read(to_bytes(change(EVIDENCE)))


VALUE: dict[str, Any] = msgpack.unpackb(to_bytes(EVIDENCE))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no evidence",
        to_bytes(EVIDENCE) + b"\x00",
        to_bytes(EVIDENCE)[:-1],
        msgpack.packb([VALUE]),
        msgpack.packb({name: VALUE[name] for name in reversed(VALUE)}),
        msgpack.packb({**VALUE, "epoch": 0.0}),
        to_bytes(EVIDENCE).replace(b"\xa5tails", b"\xa5tails" + 600 * b"\x91", 1),
        to_bytes(EVIDENCE).replace(b"\xa5tails", b"\xa5tails" + 5000 * b"\x91", 1),
        to_bytes(EVIDENCE).replace(b"\xa5tails", b"\xa5tails\xc7\x0c\xff" + bytes(12), 1),  # a point in time
        msgpack.packb({name: VALUE[name] for name in VALUE if name != "validator"}),
        msgpack.packb({**VALUE, "figures": [{**told, "tails": "x"} for told in VALUE["figures"]]}),
        b"\xde\x00\x03" + to_bytes(EVIDENCE)[1:],  # a header that is longer than it need be
    ],
)
def test_what_the_codec_refuses_is_refused(data: bytes) -> None:
    with pytest.raises(SchemaError):
        from_bytes(VoteEvidence, data)
    with pytest.raises(SchemaError):
        read(data)


def test_fields_of_a_later_version_are_ignored_beside_the_figures_and_refused_in_them() -> None:
    """Of the latter there are as many as batches."""
    assert read(msgpack.packb({"age": 1, **VALUE, "zeal": [1, 2]})) == read(to_bytes(EVIDENCE))
    figures = [{**told, "zeal": 1} for told in VALUE["figures"]]
    with pytest.raises(SchemaError, match="nobody knows"):
        read(msgpack.packb({**VALUE, "figures": figures}))


def test_many_fields_that_nobody_knows_are_refused_together() -> None:
    """Each is shorter than a batch may be; beside a hundred votes there was room for sixty of them."""
    value = dict(sorted({**VALUE, **{f"z{number:02}": [{}] * 1000 for number in range(60)}}.items()))
    with pytest.raises(SchemaError, match=f"more than {SLOW_BYTES_MAX} bytes"):
        read(msgpack.packb(value))


SMALL_BUNDLE, SMALL_EVIDENCE, SMALL_JUDGING = scene(1)
SMALL = to_bytes(SMALL_EVIDENCE)


@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_of_damaged_bytes_nothing_is_read_that_the_codec_does_not_read(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for place, value in changes:
        data[place] = value
    try:
        told = read(bytes(data), SMALL_BUNDLE, SMALL_JUDGING)
    except (SchemaError, EvidenceDiffersError):
        return
    assert told == from_bytes(VoteEvidence, bytes(data)).figures


MANY = 4_000_000


@pytest.mark.parametrize(
    "data",
    [
        msgpack.packb({**VALUE, "figures": [{**VALUE["figures"][0], "tails": [1] * MANY}] * 3}),
        msgpack.packb({**VALUE, "figures": [[1] * SAMPLED] * (MANY // SAMPLED)}),
        msgpack.packb({"age": [[1] * SAMPLED] * SAMPLED, **VALUE}),
        msgpack.packb({"age": b"\x00" * MANY, **VALUE}),
        msgpack.packb({**VALUE, "figures": [{**told, "zeal": [[1] * SAMPLED] * SAMPLED} for told in VALUE["figures"]]}),
    ],
    ids=["long lists", "many batches", "an unknown field", "long bytes", "unknown fields of batches"],
)
def test_more_than_votes_call_for_takes_no_memory(data: bytes) -> None:
    """As one value it takes some ten times its bytes."""
    tracemalloc.start()
    try:
        with pytest.raises((SchemaError, EvidenceDiffersError)):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_others_have_their_turn_after_every_few_batches() -> None:
    bundle, evidence, judging = scene(40)
    turns = sum(1 for _ in read_evidence(to_bytes(evidence), bundle, judging))
    assert turns >= 40 * SAMPLED // 2048
