"""Gossip envelopes: only what an account signed for this network, on the right topic, comes through."""

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from coincurve import PrivateKey
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import messages
from node.protocol.canonical import decode, encode
from node.protocol.codec import SLOW_BYTES_MAX, to_value
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, PeerId, RequestId
from node.protocol.messages import (
    ENVELOPE_BYTES_MAX,
    ENVELOPE_KEYS,
    TYPE_NAMES,
    WIRE_VERSION,
    Message,
    MessageBody,
    MessageError,
    Objection,
    Presence,
    PromptAnnouncement,
    PromptAnnouncements,
    Topic,
    UnknownVersionError,
    seal,
    unseal,
)
from node.protocol.signatures import address_of, sign

KEY = PrivateKey(bytes(31) + b"\x07")
SENDER = address_of(KEY.public_key)
PRESENCE = Presence(PeerId("12D3KooW"), "host.example", 4001, (ModelId("tiny"),), 0, "0.1.0", 1_000)


def sealed(network_id: str = "test", sender: Address = SENDER) -> bytes:
    _, data = seal(network_id, sender, 990, PRESENCE, lambda digest: sign(KEY, Hash32(digest)))
    return data


def test_a_sealed_message_is_read_back() -> None:
    assert unseal("test", Topic.PRESENCE, sealed()) == Message(SENDER, 990, PRESENCE)


def test_a_message_of_another_network_is_refused() -> None:
    with pytest.raises(MessageError, match="signed by"):
        unseal("test", Topic.PRESENCE, sealed("other"))


def test_a_message_in_anothers_name_is_refused() -> None:
    stranger = address_of(PrivateKey(bytes(31) + b"\x08").public_key)
    with pytest.raises(MessageError, match="signed by"):
        unseal("test", Topic.PRESENCE, sealed(sender=stranger))


def test_a_message_on_the_wrong_topic_is_refused() -> None:
    with pytest.raises(MessageError, match="does not belong"):
        unseal("test", Topic.VOTES, sealed())


def test_an_unknown_version_is_told_apart_from_a_fault() -> None:
    value = decode(sealed())
    with pytest.raises(UnknownVersionError):
        unseal("test", Topic.PRESENCE, encode({**value, "v": 2}))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, None),
        ({"v": 2}, UnknownVersionError),
        ({"t": "of-later"}, UnknownVersionError),
        ({"v": "x"}, MessageError),
        ({"t": 7}, MessageError),
        ({"zeal": 1}, MessageError),
        ({"body": {"zeal": [{}] * 60_000}}, MessageError),
        ({"from": "0x00"}, MessageError),
        ({"v": [[]] * 1000}, MessageError),
    ],
)
def test_a_long_message_is_as_this_version_writes_it_or_is_refused_without_the_slow_path(
    changes: dict[str, object], error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has judged its sender yet. Of another version it is still told apart, by its envelope alone."""
    said = replace(PRESENCE, content_host="x" * SLOW_BYTES_MAX)
    _, data = seal("test", SENDER, 990, said, lambda digest: sign(KEY, Hash32(digest)))
    monkeypatch.setattr(messages, "decode", lambda _: pytest.fail("read slowly"))
    if error is UnknownVersionError:
        monkeypatch.setattr(messages, "_unseal_quickly", lambda *_: pytest.fail("its body was read"))
    changed = msgpack.packb(dict(sorted({**msgpack.unpackb(data), **changes}.items())))
    if error is None:
        assert unseal("test", Topic.PRESENCE, changed).body == said
        return
    with pytest.raises(MessageError) as caught:
        unseal("test", Topic.PRESENCE, changed)
    assert type(caught.value) is error


def test_an_oversized_message_is_refused_unread() -> None:
    with pytest.raises(MessageError, match="over"):
        unseal("test", Topic.PRESENCE, bytes(ENVELOPE_BYTES_MAX + 1))


@given(st.integers(min_value=0), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(position: int, change: int) -> None:
    data = bytearray(sealed())
    data[position % len(data)] ^= change
    with pytest.raises(MessageError):
        unseal("test", Topic.PRESENCE, bytes(data))


@given(st.binary(max_size=300))
def test_noise_is_refused_without_another_exception(data: bytes) -> None:
    with pytest.raises(MessageError):
        unseal("test", Topic.PRESENCE, data)


texts = st.text(max_size=20)
numbers = st.integers(0, 2**63 - 1)
hashes = st.binary(min_size=32, max_size=32)
announcements = st.builds(
    PromptAnnouncement, hashes.map(RequestId), texts.map(ModelId), hashes.map(Hash32), numbers, texts.map(Address)
)
bodies = st.one_of(
    st.builds(replace, st.just(PRESENCE), models=st.lists(texts.map(ModelId), max_size=3).map(tuple), load=numbers),
    st.lists(announcements, max_size=3).map(lambda items: PromptAnnouncements(tuple(items))),
    st.builds(Objection, numbers.map(EpochNumber), hashes.map(Hash32), st.binary(max_size=65)),
)


def envelope(body: MessageBody, at: int) -> dict[str, Any]:
    """The envelope by the words of the protocol: canonical values, and nothing made ahead."""
    name, value = TYPE_NAMES[type(body)], to_value(body)
    digest = keccak(encode(["quern", "test", WIRE_VERSION, name, value, at]))
    return {"v": 1, "t": name, "body": value, "at": at, "from": SENDER, "sig": sign(KEY, Hash32(digest))}


def read(data: bytes, topic: Topic) -> object:
    try:
        return unseal("test", topic, data)
    except MessageError as error:
        return type(error), str(error)


def read_slowly(data: bytes, topic: Topic) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "_unseal_quickly", lambda *_: None)
        return read(data, topic)


@given(bodies, st.integers(0, 2**40))
def test_messages_have_the_bytes_that_the_protocol_says_and_are_read_as_it_says(body: MessageBody, at: int) -> None:
    topic, data = seal("test", SENDER, at, body, lambda digest: sign(KEY, Hash32(digest)))
    assert data == encode(envelope(body, at))
    assert messages._unseal_quickly("test", topic, data) == Message(SENDER, at, body), "all that is usual is quick"
    assert read(data, topic) == read_slowly(data, topic) == Message(SENDER, at, body)


@given(bodies, st.data())
def test_what_is_unusual_is_told_in_the_same_words(body: MessageBody, data: st.DataObject) -> None:
    whole = envelope(body, 990)
    value = data.draw(st.sampled_from([None, True, 0, 2, -1, 2**63, "", "x", b"", [], {}, {"b": 1, "a": 2}]))
    where = data.draw(st.sampled_from([*ENVELOPE_KEYS, "more", *(f"body/{key}" for key in (*whole["body"], "more"))]))
    outer, _, inner = where.partition("/")
    changed = {**whole, outer: {**whole["body"], inner: value} if inner else value}
    ordered = data.draw(st.booleans())
    packed = encode(changed) if ordered else msgpack.packb(changed, use_bin_type=True)
    for topic in (Topic.PRESENCE, Topic.VOTES):
        assert read(packed, topic) == read_slowly(packed, topic)
