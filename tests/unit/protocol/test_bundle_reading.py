"""What anybody commits as votes is read within what its epoch allows, in slices, and as the codec reads it."""

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol import canonical_reading
from node.protocol.audit_evidence import MODEL_ID_LENGTH_MAX, NODE_ID_LENGTH_MAX
from node.protocol.audit_sampling import DRAWS_MAX
from node.protocol.audit_votes import AUDIT_VOTES_MAX, CHALLENGES_MAX, CID_LENGTH_MAX, CODE_LENGTH_MAX
from node.protocol.bundle_reading import PIECE_BYTES_MAX, BundleLimits, audits_due, limits_of, read_bundle_in_slices
from node.protocol.bundles import CHECKS_MAX, REASON_LENGTH_MAX, VOTE_BUNDLE_BYTES_MAX
from node.protocol.canonical import encode
from node.protocol.codec import SLOW_BYTES_MAX, SchemaError, from_bytes, to_bytes
from node.protocol.findings import (
    AUDIT_SUM_MICRO_MAX,
    AUDIT_TOKENS_MAX,
    AuditFigures,
    AuditVote,
    Observations,
    ReceiptBook,
    ServedTokens,
    Sighting,
    SpeedMeasure,
    VoteCheck,
)
from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32, ModelId, NodeId, RequestId, TokenAmount
from node.protocol.observations import MEASURES_MAX, SERVED_MAX, SIGHTINGS_MAX
from node.protocol.omissions import OMISSIONS_MAX, SIBLINGS_MAX
from node.protocol.receipt_books import ROWS_MAX
from node.protocol.records import (
    UINT64_MAX,
    UINT256_MAX,
    Asking,
    BookGap,
    Omission,
    PocCommit,
    PocVote,
    Receipt,
    RowProof,
    SignedReceipt,
    VoteBundle,
)
from node.protocol.slices import finish
from node.protocol.validation import SampleRule
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from tests.builders import account, bundle_of, model

WIDEST = BundleLimits(VOTE_BUNDLE_BYTES_MAX, 1000, 4096)
DIGEST = Hash32(b"\xff" * 32)
ACCOUNT = account(1)
NODE_ID, MODEL_ID = NodeId("n" * NODE_ID_LENGTH_MAX), ModelId("m" * MODEL_ID_LENGTH_MAX)
CID = Cid("b" * CID_LENGTH_MAX)


def test_a_bundle_with_something_in_every_list_is_read_as_it_is() -> None:
    bundle = fullest({(ACCOUNT, NODE_ID): 8}, checks=2, audits=2)
    assert finish(read_bundle_in_slices(to_bytes(bundle), WIDEST)) == bundle


def signed() -> SignedReceipt:
    """As long as an honest one is at most."""
    receipt = Receipt(
        request_id=RequestId(b"r" * 32),
        epoch=EpochNumber(UINT64_MAX),
        model_id=MODEL_ID,
        model_cid=CID,
        payer=ACCOUNT,
        executor=ACCOUNT,
        node_id=NODE_ID,
        prompt_tokens=UINT64_MAX,
        output_tokens=UINT64_MAX,
        prompt_commitment=DIGEST,
        output_commitment=DIGEST,
        draw_commitment=DIGEST,
        is_verifiable=True,
        seeded_by_user=True,
        at=UINT64_MAX,
        price=TokenAmount(UINT256_MAX),
        asking=Asking(EpochNumber(UINT64_MAX), UINT64_MAX, DIGEST),
        vectors=UINT64_MAX,
    )
    return SignedReceipt(receipt, b"s" * 65, b"s" * 65)


def fullest(samples: dict[NodeKey, int], checks: int, audits: int) -> VoteBundle:
    """The longest bundle that an honest member can have of batches with these samples."""
    row = RowProof(UINT64_MAX, DIGEST, DIGEST, UINT64_MAX, b"p" * 20, (DIGEST,) * SIBLINGS_MAX)
    gap = BookGap(row, row)
    figures = AuditFigures(
        AUDIT_TOKENS_MAX,
        AUDIT_TOKENS_MAX,
        AUDIT_SUM_MICRO_MAX,
        AUDIT_TOKENS_MAX,
        AUDIT_SUM_MICRO_MAX,
        -AUDIT_SUM_MICRO_MAX,
        AUDIT_SUM_MICRO_MAX,
    )
    measure = SpeedMeasure(ACCOUNT, MODEL_ID, UINT64_MAX, UINT64_MAX, UINT64_MAX)
    votes = tuple(
        PocVote(*key, Verdict.INVALID, count, (UINT64_MAX,) * count, "r" * REASON_LENGTH_MAX, count)
        for key, count in samples.items()
    )
    check = VoteCheck(ACCOUNT, MODEL_ID, Verdict.INVALID, UINT64_MAX, UINT64_MAX, "r" * REASON_LENGTH_MAX)
    audit = AuditVote(ACCOUNT, -1, NODE_ID, MODEL_ID, DIGEST, Verdict.INVALID, figures, "r" * CODE_LENGTH_MAX)
    return VoteBundle(
        EpochNumber(UINT64_MAX),
        ACCOUNT,
        votes,
        audits=(audit,) * min(audits, AUDIT_VOTES_MAX),
        receipts=ReceiptBook(ROWS_MAX, UINT64_MAX, DIGEST, CID),
        observations=Observations(
            (Sighting(ACCOUNT, 1000),) * SIGHTINGS_MAX,
            (measure,) * MEASURES_MAX,
            (ServedTokens(MODEL_ID, (UINT64_MAX, UINT64_MAX)),) * SERVED_MAX,
            wants_scaling=True,
        ),
        omissions=(Omission(signed(), gap, gap),) * OMISSIONS_MAX,
        challenges=(signed(),) * CHALLENGES_MAX,
        evidence_cid=CID,
        checks=(check,) * min(checks, CHECKS_MAX),
    )


@settings(max_examples=12, deadline=None)
@given(
    batches=st.integers(0, 400),
    sample_size=st.integers(0, 600),
    count=st.integers(0, 1_000_000),
    checks=st.integers(0, 2500),
    audits=st.integers(0, 9000),
)
def test_every_honest_bundle_fits_and_is_read(
    batches: int, sample_size: int, count: int, checks: int, audits: int
) -> None:
    keys = [(ACCOUNT, NodeId(str(number).zfill(NODE_ID_LENGTH_MAX))) for number in range(batches)]
    rule = SampleRule(1, 1, 1, sample_size)
    commits = {key: PocCommit(EpochNumber(0), *key, MODEL_ID, count, DIGEST, CID) for key in keys}
    limits = limits_of(commits, dict.fromkeys(keys, rule), checks, audits)
    bundle = fullest({key: rule.sampled(count) for key in keys}, checks, audits)
    assert finish(read_bundle_in_slices(to_bytes(bundle), limits)) == bundle


def test_a_full_network_has_room_under_the_limit_that_holds_for_all() -> None:
    """512 members with 8 ML nodes each, and all checks and audits that a bundle can have."""
    commits = {
        (account(1), NodeId(str(number))): PocCommit(
            EpochNumber(0), account(1), NodeId(str(number)), MODEL_ID, 10_000, DIGEST, CID
        )
        for number in range(4096)
    }
    honest = limits_of(commits, dict.fromkeys(commits, SampleRule(1, 1, 1, 64)), CHECKS_MAX, AUDIT_VOTES_MAX)
    assert honest.bytes_max < VOTE_BUNDLE_BYTES_MAX


def test_a_small_epoch_allows_a_small_bundle() -> None:
    assert limits_of({}, {}, 3, 0).bytes_max < VOTE_BUNDLE_BYTES_MAX // 10
    assert audits_due(None) == 0
    assert DRAWS_MAX < AUDIT_VOTES_MAX


def test_more_bytes_or_entries_than_the_epoch_allows_are_refused() -> None:
    vote = PocVote(ACCOUNT, NODE_ID, Verdict.ABSTAIN, 0, (), "no-model")
    data = to_bytes(replace(bundle_of(1), votes=(vote, vote)))
    for limits in (replace(WIDEST, bytes_max=len(data) - 1), replace(WIDEST, votes_max=1)):
        with pytest.raises(SchemaError, match="at most"):
            finish(read_bundle_in_slices(data, limits))
    seen = Observations(sightings=(Sighting(Address(""), 0),) * (SIGHTINGS_MAX + 1))
    with pytest.raises(SchemaError, match="sightings, at most"):
        finish(read_bundle_in_slices(to_bytes(replace(bundle_of(1), observations=seen)), WIDEST))


def test_a_field_that_nobody_knows_is_let_pass_and_a_long_one_is_not() -> None:
    value = msgpack.unpackb(to_bytes(bundle_of(1)))
    assert finish(read_bundle_in_slices(msgpack.packb({**value, "zz": 0}), WIDEST)) == bundle_of(1)
    with pytest.raises(SchemaError):
        finish(read_bundle_in_slices(msgpack.packb({**value, "zz": [[]] * PIECE_BYTES_MAX}), WIDEST))


@pytest.mark.parametrize("place", ["the bundle", "its observations", "both"])
def test_all_that_nobody_knows_is_short_together(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred fields that each fit a piece would hold a node up for seconds, by a bundle that counts."""
    read_slowly = []

    def counting(value: object) -> bytes:
        read_slowly.append(encode(value))
        return read_slowly[-1]

    monkeypatch.setattr(canonical_reading, "encode", counting)
    value = msgpack.unpackb(to_bytes(bundle_of(1)))
    odd = {f"zz{number:02}": [{}] * 1000 for number in range(50)}
    if place != "its observations":
        value |= odd
    if place != "the bundle":
        value["observations"] |= odd
    with pytest.raises(SchemaError, match=f"more than {SLOW_BYTES_MAX} bytes"):
        finish(read_bundle_in_slices(encode(value), WIDEST))
    assert sum(map(len, read_slowly)) <= SLOW_BYTES_MAX


def test_no_slice_is_of_more_than_a_piece() -> None:
    data = to_bytes(fullest({}, checks=CHECKS_MAX, audits=AUDIT_VOTES_MAX))
    slices = sum(1 for _ in read_bundle_in_slices(data, WIDEST))
    assert slices >= len(data) // PIECE_BYTES_MAX


def test_entries_with_fields_that_nobody_knows_end_the_reading_at_once() -> None:
    """Each would take the codec's slow path, ten times as long."""
    odd = {"participant": "", "per_mille": 0, "z": [[]] * 1000}
    value = msgpack.unpackb(to_bytes(bundle_of(1)))
    value["observations"]["sightings"] = [odd] * SIGHTINGS_MAX
    reading, slices = read_bundle_in_slices(msgpack.packb(value), WIDEST), 0
    with pytest.raises(SchemaError, match="nobody knows"):
        for _ in reading:
            slices += 1
    assert slices <= 1


SAMPLE = to_bytes(
    replace(
        bundle_of(
            1,
            PocVote(ACCOUNT, NODE_ID, Verdict.ABSTAIN, 0, (), "no-model"),
            PocVote(account(2), NODE_ID, Verdict.INVALID, 3, (1, 2), "mismatches"),
        ),
        observations=Observations((Sighting(ACCOUNT, 9),), (), (ServedTokens(model().model_id, (1, 2)),)),
        checks=(VoteCheck(ACCOUNT, MODEL_ID, Verdict.VALID, 1, 0, ""),),
        evidence_cid=CID,
    )
)
ODD = st.sampled_from(
    [True, None, -1, 2**64 - 1, 1.5, "x", b"x", [], {}, [[[]]], msgpack.Timestamp(1, 2), msgpack.ExtType(3, b"a")]
)


def of_codec(data: bytes) -> VoteBundle | None:
    try:
        return from_bytes(VoteBundle, data)
    except SchemaError:
        return None


def of_reader(data: bytes) -> VoteBundle | None:
    try:
        return finish(read_bundle_in_slices(data, WIDEST))
    except SchemaError:
        return None


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), max_size=3))
def test_damaged_bytes_are_to_the_reader_what_they_are_to_the_codec(damage: list[tuple[int, int, int]]) -> None:
    data = bytearray(SAMPLE)
    for kind, place, value in damage:
        end = place + (0 if kind == 1 else 1)
        data[place:end] = b"" if kind == 2 else bytes([value])
    assert of_reader(bytes(data)) == of_codec(bytes(data))


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from(["votes", "checks", "observations", "evidence_cid", "aa", "zz"]), max_size=2),
    st.booleans(),
    st.booleans(),
    ODD,
)
def test_odd_values_are_to_the_reader_what_they_are_to_the_codec(
    path: list[str], inside: bool, is_sorted: bool, odd: object
) -> None:
    value = msgpack.unpackb(SAMPLE)
    for name in path:
        if inside and name == "votes":
            value["votes"][-1]["mismatches"] = odd
        elif inside and name == "observations":
            value["observations"]["sightings"] = [odd]
        else:
            value[name] = odd
    data = msgpack.packb(dict(sorted(value.items())) if is_sorted else value)
    assert of_reader(data) == of_codec(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"\x91" * 100_000, b"\x81\xa1a" * 5000, b"\xdf\xff\xff\xff\xff", SAMPLE[:-1], SAMPLE + b"\x00"],
)
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    assert of_reader(data) is of_codec(data) is None
