"""The Bitswap message: what is written is read back, and nothing else is taken for one."""

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.bitswap.pb.bitswap_pb2 import Message as LibraryMessage

from p2p.content.bitswap.messages import (
    BLOCKS_MAX,
    MESSAGE_BYTES_MAX,
    NAME_BYTES_MAX,
    PRESENCES_MAX,
    WANTS_MAX,
    Block,
    Message,
    MessageError,
    Presence,
    Want,
    cid_of_name,
    decode_message,
    encode_message,
    prefix_of_name,
)
from p2p.content.cid import Cid, Codec
from p2p.content.protobuf import encode_bytes, encode_integer

names = st.binary(min_size=1, max_size=NAME_BYTES_MAX)
wants = st.builds(
    Want, names, st.integers(0, 2**31 - 1), cancel=st.booleans(), have=st.booleans(), send_dont_have=st.booleans()
)
messages = st.builds(
    Message,
    st.lists(wants, max_size=8).map(tuple),
    st.booleans(),
    st.lists(st.builds(Block, names, st.binary(max_size=200)), max_size=8).map(tuple),
    st.lists(st.builds(Presence, names, st.booleans()), max_size=8).map(tuple),
)


def body(message: Message) -> bytes:
    """The message without the length before it."""
    data = encode_message(message)
    return data[next(index for index, byte in enumerate(data) if byte < 0x80) + 1 :]


@given(messages)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    assert decode_message(body(message)) == message


@given(messages)
def test_the_librarys_protobuf_reads_the_same(message: Message) -> None:
    theirs = LibraryMessage.FromString(body(message))
    assert [(entry.block, entry.priority, entry.cancel) for entry in theirs.wantlist.entries] == [
        (want.name, want.priority, want.cancel) for want in message.wants
    ]
    assert theirs.wantlist.full == message.full
    assert [(block.prefix, block.data) for block in theirs.payload] == [(b.prefix, b.data) for b in message.blocks]
    assert [(p.cid, p.type == 0) for p in theirs.blockPresences] == [(p.name, p.has) for p in message.presences]
    assert decode_message(theirs.SerializeToString()) == message


@given(st.binary(max_size=300))
def test_random_bytes_are_a_message_or_refused(data: bytes) -> None:
    with contextlib.suppress(MessageError):
        decode_message(data)


@given(messages, st.data())
def test_a_damaged_message_is_read_or_refused(message: Message, data: st.DataObject) -> None:
    wire = bytearray(body(message) or b"\0")
    index = data.draw(st.integers(0, len(wire) - 1))
    wire[index] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MessageError):
        decode_message(bytes(wire[: data.draw(st.integers(0, len(wire)))]))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bytes(MESSAGE_BYTES_MAX + 1), id="too long"),
        pytest.param(encode_bytes(1, encode_bytes(1, encode_bytes(1, b"n")) * (WANTS_MAX + 1)), id="too many wants"),
        pytest.param(encode_bytes(3, encode_bytes(1, b"p")) * (BLOCKS_MAX + 1), id="too many blocks"),
        pytest.param(encode_bytes(4, encode_bytes(1, b"n")) * (PRESENCES_MAX + 1), id="too many presences"),
        pytest.param(encode_bytes(1, encode_bytes(1, b"")), id="a want of nothing"),
        pytest.param(encode_bytes(1, encode_bytes(1, encode_bytes(1, bytes(129)))), id="an endless CID"),
        pytest.param(encode_bytes(1, encode_bytes(1, encode_integer(1, 7))), id="a CID that is a number"),
        pytest.param(
            encode_bytes(1, encode_bytes(1, encode_bytes(1, b"n") + encode_integer(2, 2**40))), id="a huge priority"
        ),
        pytest.param(encode_bytes(3, encode_bytes(2, b"data")), id="a block without a prefix"),
        pytest.param(encode_bytes(4, encode_integer(2, 1)), id="a presence of nothing"),
        pytest.param(encode_integer(1, 5), id="a list that is a number"),
        pytest.param(encode_bytes(1, encode_bytes(1, encode_bytes(1, b"n"))) * 2, id="two lists"),
        pytest.param(b"\x0a\x05abc", id="cut short"),
    ],
)
def test_what_no_honest_peer_sends_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode_message(data)


def test_fields_of_later_versions_are_passed_over() -> None:
    message = Message(wants=(Want(b"name"),))
    assert decode_message(body(message) + encode_bytes(77, b"tomorrow") + encode_integer(5, 3)) == message


def test_a_cid_of_version_0_means_the_same_block_and_is_answered_in_kind() -> None:
    cid = Cid.of(Codec.DAG_PB, b"node")
    old_name = cid.to_bytes()[2:]
    assert cid_of_name(old_name) == cid == cid_of_name(cid.to_bytes())
    assert prefix_of_name(old_name) == b"\x00\x70\x12\x20"
    assert prefix_of_name(cid.to_bytes()) == b"\x01\x70\x12\x20"


@pytest.mark.parametrize("name", [b"\x01\x71\x12\x20" + bytes(32), b"\x01\x55\x13\x40" + bytes(64), os.urandom(36)])
def test_a_cid_that_we_do_not_speak_names_nothing_we_hold(name: bytes) -> None:
    assert cid_of_name(name) is None
