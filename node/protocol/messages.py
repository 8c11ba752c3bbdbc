"""Gossip messages: the signed envelope and the body of each kind.

Goals: a receiver can refuse a message by size, then schema, then signature, then the sender's right to say it, in
that order and without asking anyone. Non-goals: delivery guarantees (content is fetched by CID), tokens, weights.

An envelope is a canonical map `{v, t, body, at, from, sig}`. The account signs Keccak-256 of the canonical array
`["quern", network_id, v, t, body, at]`, so a message of one network means nothing on another.
"""

from dataclasses import dataclass
from enum import Enum

import msgpack
from eth_hash.auto import keccak

from node.protocol.canonical import CanonicalError, CanonicalValue, decode, encode
from node.protocol.codec import SLOW_BYTES_MAX, Record, SchemaError, from_value, to_bytes
from node.protocol.compiled import UnusualError, read_value
from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32, ModelId, PeerId, RequestId
from node.protocol.open_prompts import OpenAnswer, OpenPrompt
from node.protocol.records import OffenceVerdict, SignedReceipt
from node.protocol.signatures import DigestSigner, SignatureError, recover

WIRE_VERSION = 1
ARRAY_OF_SIX, MAP_OF_SIX = b"\x96", b"\x86"
"""As MessagePack begins them."""
ENVELOPE_KEYS = ("at", "body", "from", "sig", "t", "v")
"""In canonical order."""
ENVELOPE_HEADS = tuple(encode(key) for key in ENVELOPE_KEYS)
ENVELOPE_BYTES_MAX = 63 * 1024
"""Fits into a gossip message of 64 KiB, alone; larger ones are refused unread."""
RECEIPTS_PER_MESSAGE_MAX = 64
"""Receipts are batched: at most this many in one message, which stays well below the size limit."""


class Topic(Enum):
    """Gossip topics; on the wire `/quern/1/<network-id>/<value>`."""

    PRESENCE = "presence"
    PROMPTS = "prompts"
    RESULTS = "results"
    VOTES = "votes"


@dataclass(frozen=True, slots=True)
class Presence:
    """I am here: who I am, what I serve and where my content can be fetched. Expires."""

    peer_id: PeerId
    content_host: str
    """Host of the content gateway; empty where the node serves no content."""
    content_port: int
    models: tuple[ModelId, ...]
    """Models loaded and ready right now."""
    load: int
    """Requests in progress."""
    version: str
    expires_at: int
    """UNIX seconds; never more than PRESENCE_SECONDS_MAX after `at`."""
    capacity: int = 0
    """Requests it can serve at once, over all its models; 0 if it does not say."""
    seed_commitment: bytes = b""
    """Names the secret for seeds that is in force (node.protocol.seeds); empty where no answers are given."""
    seed_revealed: bytes = b""
    """The secret of the epoch before the last; empty until there is one."""
    free: bool = False
    """It serves free of charge, and takes no vouchers."""


@dataclass(frozen=True, slots=True)
class PromptAnnouncement:
    """A gateway sent a request to an executor: what was promised, without revealing the prompt."""

    request_id: RequestId
    model_id: ModelId
    prompt_commitment: Hash32
    max_tokens: int
    executor: Address


@dataclass(frozen=True, slots=True)
class PromptAnnouncements:
    """The announcements of about a second, in one message."""

    items: tuple[PromptAnnouncement, ...]


@dataclass(frozen=True, slots=True)
class Receipts:
    """The receipts of about a second, in one message."""

    items: tuple[SignedReceipt, ...]


@dataclass(frozen=True, slots=True)
class ResultSignature:
    """A member's EIP-712 signature of the EpochResult it computed, and what it was computed from (agreement.py)."""

    epoch: EpochNumber
    digest: Hash32
    signature: bytes
    round: int
    """Counts what this member signed for the epoch, from 0."""
    held: bytes
    """Whose vote bundles it holds: a bit for each that committed one, ascending by account."""
    content_cid: Cid
    """Of the result, so that others can see where theirs differs."""


@dataclass(frozen=True, slots=True)
class VerdictSignature:
    """A member's EIP-712 signature of a verdict on an offence that an accepted result names."""

    verdict: OffenceVerdict
    signature: bytes


@dataclass(frozen=True, slots=True)
class Objection:
    """A member's EIP-712 signature against a result that the chain accepted (objections.py)."""

    epoch: EpochNumber
    result_digest: Hash32
    signature: bytes


PRESENCE_SECONDS_MAX = 120
"""A presence record lives at most so long: a node that is gone stops being drawn within two minutes."""

MessageBody = (
    Presence | PromptAnnouncements | OpenPrompt | Receipts | OpenAnswer | ResultSignature | VerdictSignature | Objection
)

BODY_TYPES: dict[str, tuple[Topic, type]] = {
    "presence": (Topic.PRESENCE, Presence),
    "prompts": (Topic.PROMPTS, PromptAnnouncements),
    "open-prompt": (Topic.PROMPTS, OpenPrompt),
    "receipts": (Topic.RESULTS, Receipts),
    "open-answer": (Topic.RESULTS, OpenAnswer),
    "result-signature": (Topic.VOTES, ResultSignature),
    "verdict-signature": (Topic.VOTES, VerdictSignature),
    "objection": (Topic.VOTES, Objection),
}
TYPE_NAMES = {body_type: name for name, (_, body_type) in BODY_TYPES.items()}


class MessageError(ValueError):
    """The bytes are not a valid message; the sender is penalised."""


class UnknownVersionError(MessageError):
    """A version this node does not speak: ignored, not penalised, so that networks can be upgraded."""


@dataclass(frozen=True, slots=True)
class Message:
    """A verified message: `sender` is the account that signed it."""

    sender: Address
    at: int
    """UNIX seconds when the sender made it."""
    body: MessageBody


def signing_digest(network_id: str, type_name: str, body: bytes, at: int) -> Hash32:
    """Return what the sender's account signs; `body` are its canonical bytes."""
    before = [encode(part) for part in ("quern", network_id, WIRE_VERSION, type_name)]
    return Hash32(keccak(ARRAY_OF_SIX + b"".join((*before, body, encode(at)))))


def seal(network_id: str, sender: Address, at: int, body: MessageBody, sign: DigestSigner) -> tuple[Topic, bytes]:
    """Return the topic and wire bytes of `body`, signed by `sign` (65-byte signature of a 32-byte digest)."""
    name = TYPE_NAMES[type(body)]
    packed = to_bytes(body)
    signature = sign(signing_digest(network_id, name, packed, at))
    values = (encode(at), packed, encode(sender), encode(signature), encode(name), encode(WIRE_VERSION))
    data = MAP_OF_SIX + b"".join(key + value for key, value in zip(ENVELOPE_HEADS, values, strict=True))
    if len(data) > ENVELOPE_BYTES_MAX:
        raise MessageError(f"{name} message of {len(data)} bytes is over {ENVELOPE_BYTES_MAX}")
    return BODY_TYPES[name][0], data


def unseal(network_id: str, topic: Topic, data: bytes) -> Message:
    """Check size, schema and signature of `data` and return the message.

    Raises UnknownVersionError for other versions and kinds, MessageError for everything else that is wrong. Whether
    the sender has the right to say it is for the caller to judge.
    """
    if len(data) > ENVELOPE_BYTES_MAX:
        raise MessageError(f"{len(data)} bytes is over {ENVELOPE_BYTES_MAX}")
    is_long = len(data) > SLOW_BYTES_MAX
    if is_long:
        _require_our_kind(data)  # first, for nobody is blamed for another version, however much there is to unpack
    message = _unseal_quickly(network_id, topic, data)
    if message is not None:
        return message
    if is_long:
        raise MessageError(f"{len(data)} bytes that are no message of this version with its sender's signature")
    try:
        value = decode(data)
    except CanonicalError as error:
        raise MessageError(str(error)) from error
    if not isinstance(value, dict):
        raise MessageError("not a map")
    if value.get("v") != WIRE_VERSION:
        raise UnknownVersionError(f"version {value.get('v')!r}")
    name = _field(value, "t", str)
    if name not in BODY_TYPES:
        raise UnknownVersionError(f"kind {name!r}")
    expected_topic, body_type = BODY_TYPES[name]
    if expected_topic is not topic:
        raise MessageError(f"{name} does not belong on {topic.value}")
    at = _field(value, "at", int)
    sender = _field(value, "from", str)
    try:
        body: MessageBody = from_value(body_type, value.get("body"))
        signer = recover(signing_digest(network_id, name, encode(value["body"]), at), _field(value, "sig", bytes))
    except (SchemaError, SignatureError, CanonicalError) as error:
        raise MessageError(f"{name}: {error}") from error
    if signer != sender:
        raise MessageError(f"{name}: signed by {signer}, not by {sender}")
    return Message(sender=signer, at=at, body=body)


def _unseal_quickly(network_id: str, topic: Topic, data: bytes) -> Message | None:
    """Read a message that is as it should be; None for all else, of which `unseal` then says what is wrong."""
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True)
        if type(value) is not dict or tuple(value) != ENVELOPE_KEYS or msgpack.packb(value, use_bin_type=True) != data:
            return None
        at, body_value, sender, signature, name, version = value.values()
        expected_topic, body_type = BODY_TYPES[name]
        if (type(at), type(sender), type(signature), type(version)) != (int, str, bytes, int):
            return None
        if version != WIRE_VERSION or expected_topic is not topic:
            return None
        body: MessageBody = read_value(body_type, body_value)
        packed = msgpack.packb(body_value, use_bin_type=True)
        signer = recover(signing_digest(network_id, name, packed, at), signature)
    except (UnusualError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    except msgpack.exceptions.UnpackException:
        return None
    return Message(sender=signer, at=at, body=body) if signer == sender else None


def _require_our_kind(data: bytes) -> None:
    """Raise UnknownVersionError if a long message is of another version or kind, whose body nobody reads here."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data), max_array_len=0, max_map_len=len(ENVELOPE_KEYS))
    unpacker.feed(data)
    said: dict[str, object] = {}
    try:
        for _ in range(unpacker.read_map_header()):
            key = unpacker.unpack()
            if key in ("t", "v"):
                said[key] = unpacker.unpack()
            else:
                unpacker.skip()
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise MessageError(f"not an envelope: {error}") from error
    if type(said.get("v")) is int and said["v"] != WIRE_VERSION:
        raise UnknownVersionError(f"version {said['v']!r}")
    if type(said.get("t")) is str and said["t"] not in BODY_TYPES:
        raise UnknownVersionError(f"kind {str(said['t'])[:60]!r}")


def _field(value: dict[str, CanonicalValue], key: str, kind: type[Record]) -> Record:
    found = value.get(key)
    if type(found) is not kind:
        raise MessageError(f"{key}: expected {kind.__name__}")
    return found
