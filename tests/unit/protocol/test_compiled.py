"""The codec's fast path says in every case exactly what the slow one says."""

from dataclasses import dataclass, replace
from enum import Enum

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import codec
from node.protocol.canonical import encode, keccak_digest, sha256_digest
from node.protocol.codec import (
    SLOW_BYTES_MAX,
    SchemaError,
    _from_bytes_slowly,
    from_bytes,
    tagged_bytes,
    to_bytes,
    to_value,
)
from node.protocol.compiled import UnusualError, pack, unpack
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, RequestId, TokenAmount
from node.protocol.receipts import draw_commitment
from node.protocol.records import Voucher
from node.protocol.sampling import SEED_MAX, LogitBias, SamplingParameters, TokenAlternative, TokenLogprobs
from node.protocol.verdicts import Verdict
from node.services import frames
from node.services.frames import (
    PAYMENT_BYTES_MAX,
    ExecutorFrame,
    InferenceRequest,
    Opening,
    Payment,
    Prompt,
    SignedVoucherFrame,
    Tokens,
    Turn,
    prompt_commitment_of,
    read_payment,
    tokens_bytes,
)

numbers = st.integers(0, 2**64 - 1)
texts = st.text(max_size=20)
hashes = st.binary(min_size=32, max_size=32).map(Hash32)
amounts = st.integers(0, 2**256 - 1).map(TokenAmount)
alternatives = st.builds(TokenAlternative, numbers, texts, st.integers(-(2**63), 2**63 - 1))
logprobs = st.builds(TokenLogprobs, alternatives, st.lists(alternatives, max_size=3).map(tuple))
tokens = st.builds(
    Tokens, st.lists(numbers, max_size=40).map(tuple), texts, texts, st.lists(logprobs, max_size=3).map(tuple)
)
vouchers = st.builds(SignedVoucherFrame, st.builds(Voucher, hashes, amounts, hashes), st.binary(max_size=65))
openings = st.builds(Opening, st.lists(numbers, max_size=40).map(tuple), numbers, st.none() | vouchers, st.none())
payments = st.builds(Payment, vouchers, amounts, st.binary(max_size=65))
prompts = st.one_of(
    st.builds(Prompt, text=texts),
    st.lists(st.builds(Turn, st.sampled_from(["user", "tool"]), texts, texts), min_size=1, max_size=3).map(
        lambda turns: Prompt(tuple(turns))
    ),
)
samplings = st.builds(
    SamplingParameters,
    temperature_milli=st.integers(0, 2000),
    top_k=st.integers(0, 1000),
    logit_bias=st.lists(st.builds(LogitBias, st.integers(0, 9), st.integers(-9, 9)), max_size=3).map(tuple),
)


@dataclass(frozen=True, slots=True)
class Odd:
    """Kinds of fields that frames have not."""

    verdict: Verdict
    pair: tuple[int, str]
    pairs: tuple[tuple[int, str], ...]
    flag: bool
    maybe: int | None


odds = st.builds(
    Odd,
    st.sampled_from(Verdict),
    st.tuples(numbers, texts),
    st.lists(st.tuples(numbers, texts), max_size=3).map(tuple),
    st.booleans(),
    st.none() | numbers,
)
records = st.one_of(
    tokens.map(lambda part: ExecutorFrame(None, part, None)),
    openings.map(lambda opening: ExecutorFrame(opening, None, None)),
    payments, prompts, samplings, odds,
)  # fmt: skip


def outcome(read: object, record_type: type, data: bytes) -> object:
    """What reading gives: the record, or the error's words."""
    try:
        return read(record_type, data)  # type: ignore[operator]
    except SchemaError as error:
        return str(error)


@given(records)
def test_bytes_are_those_of_the_slow_path_and_come_back(record: object) -> None:
    data = encode(to_value(record))
    assert pack(record) == to_bytes(record) == data
    assert unpack(type(record), data) == from_bytes(type(record), data) == record
    assert _from_bytes_slowly(type(record), data) == record


@given(records, texts)
def test_what_is_signed_of_a_record_is_the_array_of_both(record: object, tag: str) -> None:
    assert tagged_bytes(tag, record) == encode([tag, to_value(record)])


@given(tokens)
def test_pieces_of_answers_are_written_alike(piece: Tokens) -> None:
    assert tokens_bytes(piece) == encode(to_value(ExecutorFrame(None, piece, None)))


@given(records, st.data())
def test_spoilt_bytes_are_refused_in_the_slow_paths_words(record: object, data: st.DataObject) -> None:
    spoilt = bytearray(to_bytes(record))
    for _ in range(data.draw(st.integers(1, 3))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    for kind in (type(record), ExecutorFrame, Odd):
        assert outcome(from_bytes, kind, bytes(spoilt)) == outcome(_from_bytes_slowly, kind, bytes(spoilt))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_alike(data: bytes) -> None:
    assert outcome(from_bytes, ExecutorFrame, data) == outcome(_from_bytes_slowly, ExecutorFrame, data)


VOUCHER = {"channel_id": bytes(32), "cumulative": "5", "receipts_root": bytes(32)}


@pytest.mark.parametrize(
    "value",
    [
        {**VOUCHER, "cumulative": "05"},
        {**VOUCHER, "cumulative": 5},
        {**VOUCHER, "cumulative": "-5"},
        {**VOUCHER, "cumulative": "5" * 79},
        {**VOUCHER, "channel_id": "text"},
        {"channel_id": bytes(32), "cumulative": "5"},
        dict(reversed(VOUCHER.items())),
        [],
        5,
    ],
)
def test_records_that_are_not_as_they_should_be_are_left_to_the_slow_path(value: object) -> None:
    data = msgpack.packb(value, use_bin_type=True)
    with pytest.raises(UnusualError):
        unpack(Voucher, data)
    with pytest.raises(SchemaError):
        from_bytes(Voucher, data)


def test_unknown_fields_are_ignored_as_before() -> None:
    data = encode({**VOUCHER, "added_later": 7})
    assert from_bytes(Voucher, data) == Voucher(Hash32(bytes(32)), TokenAmount(5), Hash32(bytes(32)))


@pytest.mark.parametrize("is_known", [True, False])
def test_what_is_long_is_as_this_version_writes_it_or_is_refused_unexplained(
    is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow path would take half a second for a gossip message."""
    short, long = "x" * (SLOW_BYTES_MAX // 2), "x" * SLOW_BYTES_MAX
    unknown = {} if is_known else {"zeal": 7}
    of = {text: encode({**to_value(Tokens((), text, "")), **unknown}) for text in (short, long)}
    assert from_bytes(Tokens, of[short]) == Tokens((), short, "")
    monkeypatch.setattr(codec, "_from_bytes_slowly", lambda *_: pytest.fail("read slowly"))
    if is_known:
        assert from_bytes(Tokens, of[long]) == Tokens((), long, "")
        return
    with pytest.raises(SchemaError, match=f"Tokens: {len(of[long])} bytes that this version does not write"):
        from_bytes(Tokens, of[long])


def test_a_long_payment_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One comes for every few tokens, of at most 256 KiB."""
    payment = Payment(None, TokenAmount(0), bytes(65))
    assert read_payment(to_bytes(payment)) == payment
    monkeypatch.setattr(frames, "from_bytes", lambda *_: pytest.fail("it was read"))
    with pytest.raises(SchemaError, match="over"):
        read_payment(to_bytes(replace(payment, receipt_signature=bytes(PAYMENT_BYTES_MAX))))


def test_longer_forms_of_numbers_are_refused() -> None:
    record = Tokens((7,), "", "")
    data = to_bytes(record)
    longer = data.replace(b"\x91\x07", b"\x91\xcc\x07")
    assert longer != data
    with pytest.raises(SchemaError, match="canonical"):
        from_bytes(Tokens, longer)


@dataclass(frozen=True, slots=True)
class Loose:
    """A record whose values need not be what they are annotated as."""

    number: int
    many: tuple[int, ...]
    kind: Verdict


class Word(str):
    """Text, but not exactly."""


@pytest.mark.parametrize(
    "record",
    [
        Loose(1.5, (), Verdict.VALID),  # type: ignore[arg-type]
        Loose(1, (1.5,), Verdict.VALID),  # type: ignore[arg-type]
        Loose(2**64, (), Verdict.VALID),
        Loose(1, (), Word("x")),  # type: ignore[arg-type]
        Loose(Word("x"), (Word("y"),), Verdict.VALID),  # type: ignore[arg-type]
        Loose(1, (), Enum("Other", {"A": 3}).A),  # type: ignore[attr-defined]
        Loose("\ud800", (), Verdict.VALID),  # type: ignore[arg-type]
    ],
)
def test_what_has_no_canonical_form_has_none_here(record: object) -> None:
    def written(write: object) -> object:
        try:
            return write(record)  # type: ignore[operator]
        except ValueError as error:
            return str(error)

    assert written(to_bytes) == written(lambda given: encode(to_value(given)))


def test_seeds_fit() -> None:
    assert from_bytes(Tokens, to_bytes(Tokens((SEED_MAX,), "", ""))).token_ids == (SEED_MAX,)


@given(prompts, st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_the_commitment_to_a_prompt_is_over_the_canonical_bytes(prompt: Prompt, identity: bytes, salt: bytes) -> None:
    request = InferenceRequest(
        RequestId(identity), ModelId("m"), Address("0x1"), Address("0x2"), 1, EpochNumber(2), prompt, (), 5,
        SamplingParameters(), None, (), None, "", salt=salt,
    )  # fmt: skip
    assert prompt_commitment_of(request) == keccak_digest(["quern-prompt", identity, salt, to_value(prompt)])


@given(samplings, st.integers(0, SEED_MAX), st.lists(texts, max_size=3).map(tuple), texts)
def test_the_commitment_to_a_draw_is_over_the_canonical_bytes(
    sampling: SamplingParameters, seed: int, stop: tuple[str, ...], response_format: str
) -> None:
    expected = sha256_digest([to_value(sampling), seed, list(stop), response_format])
    assert draw_commitment(sampling, seed, stop, response_format) == expected
