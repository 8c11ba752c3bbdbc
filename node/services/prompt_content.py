"""What the CIDs of prompts and answers name: for prompts on chain and for open prompts by gossip.

Every file is a canonical map with a `kind` and a `version`. The first version had neither, and prompts only messages;
it is still read. What this software cannot read is refused with a word that says so, never guessed at. Files that are
longer than SLOW_BYTES_MAX have no fields that nobody knows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from node.protocol.canonical import CanonicalError, decode, encode
from node.protocol.canonical_reading import CanonicalReader
from node.protocol.codec import SLOW_BYTES_MAX, Record, SchemaError, from_bytes, from_value, to_value
from node.protocol.identifiers import ModelId
from node.protocol.record_reading import NO_PARTS, Part, at_once, entries, read_record
from node.protocol.sampling import SEED_MAX, SamplingParameters
from node.protocol.sealed_content import SealedContent
from node.protocol.slices import finish
from node.services.frames import JSON_CHARACTERS_MAX, SALT_BYTES, STOPS_MAX, Prompt, Turn

PROMPT_BYTES_MAX = 256 * 1024
"""Larger ones do not fit any model's context."""
ANSWER_BYTES_MAX = 4 * 1024 * 1024
PIECE_BYTES_MAX = 16 * 1024
"""Read at a time of long answers. A prompt is read as a whole: it is a request as executors are asked one."""
VERSION = 2
FIRST_PROMPT = b"\x81\xa5turns"
"""So a prompt of the first version begins: it had one field."""
PROMPT_KIND, ANSWER_KIND, SEALED_KIND = "quern-prompt", "quern-answer", "quern-sealed"


class PromptContentError(ValueError):
    """Content that is no prompt or answer this software can use. Whoever put it there has to put another."""


@dataclass(frozen=True, slots=True)
class PromptContent:
    """A prompt, and how it is to be answered."""

    model_id: ModelId
    """Empty in the first version, which did not name it."""
    prompt: Prompt
    max_output_tokens: int
    """0: as many as are paid for."""
    sampling: SamplingParameters
    seed: int | None
    """None: one that follows from the request."""
    stop: tuple[str, ...]
    response_format: str
    """What the answer must look like: JSON in OpenAI's shape of `response_format`, or empty."""
    salt: bytes
    """Random, so that a prompt asked twice is two contents, and a guessed one is not recognised by its CID."""

    def __post_init__(self) -> None:
        checks = (
            (self.max_output_tokens >= 0, "max_output_tokens is not negative"),
            (self.seed is None or 0 <= self.seed <= SEED_MAX, "seed is 0 to 2^63-1"),
            (len(self.stop) <= STOPS_MAX and all(self.stop), f"at most {STOPS_MAX} stop texts, none empty"),
            (
                len(self.response_format) <= JSON_CHARACTERS_MAX,
                f"response_format has at most {JSON_CHARACTERS_MAX} characters",
            ),
            (len(self.salt) in (0, SALT_BYTES), f"salt has {SALT_BYTES} bytes"),
        )
        for holds, rule in checks:
            if not holds:
                raise ValueError(rule)


@dataclass(frozen=True, slots=True)
class AnswerContent:
    """What an answer's CID names. Token ids let anyone recompute it."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class _FirstTurn:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class _FirstPromptContent:
    """The first version."""

    turns: tuple[_FirstTurn, ...]


def prompt_bytes(content: PromptContent) -> bytes:
    """Return a prompt as a file. Raises PromptContentError if it is too long."""
    return _file(PROMPT_KIND, content, PROMPT_BYTES_MAX)


def answer_bytes(content: AnswerContent) -> bytes:
    """Return an answer as a file. Raises PromptContentError if it is too long."""
    return _file(ANSWER_KIND, content, ANSWER_BYTES_MAX)


def sealed_bytes(content: SealedContent) -> bytes:
    """Return a sealed file of either kind."""
    return _file(SEALED_KIND, content, ANSWER_BYTES_MAX)


def read_prompt(data: bytes, model_id: ModelId) -> PromptContent:
    """Read the prompt that is meant for `model_id`. Raises PromptContentError."""
    if SLOW_BYTES_MAX < len(data) <= PROMPT_BYTES_MAX:
        if data.startswith(FIRST_PROMPT):
            return _first_version(lambda: from_bytes(_FirstPromptContent, data))
        content = _long(PromptContent, data, PROMPT_KIND, PROMPT_BYTES_MAX)
    else:
        value = _decoded(data, PROMPT_BYTES_MAX)
        if "kind" not in value:
            return _first_version(lambda: from_value(_FirstPromptContent, value))
        content = _record(PromptContent, value, PROMPT_KIND)
    if content.model_id != model_id:
        raise PromptContentError(f"it is a prompt for {content.model_id[:64]!r}, and {model_id} was asked")
    return content


def read_answer(data: bytes) -> AnswerContent:
    """Read an answer. Raises PromptContentError."""
    if SLOW_BYTES_MAX < len(data) <= ANSWER_BYTES_MAX:
        ids = {name: entries(int, len(data), name) for name in ("prompt_ids", "token_ids")}
        text = at_once(lambda reader: reader.scalar(str))
        return _long(AnswerContent, data, ANSWER_KIND, PIECE_BYTES_MAX, {**ids, "text": text})
    value = _decoded(data, ANSWER_BYTES_MAX)
    if "kind" not in value:
        return _record(AnswerContent, {**value, "kind": ANSWER_KIND, "version": VERSION}, ANSWER_KIND)
    return _record(AnswerContent, value, ANSWER_KIND)


def read_sealed(data: bytes) -> SealedContent:
    """Read a sealed file. Raises PromptContentError."""
    if SLOW_BYTES_MAX < len(data) <= ANSWER_BYTES_MAX:
        ciphertext = at_once(lambda reader: reader.scalar(bytes))
        return _long(SealedContent, data, SEALED_KIND, PIECE_BYTES_MAX, {"ciphertext": ciphertext})
    return _record(SealedContent, _decoded(data, ANSWER_BYTES_MAX), SEALED_KIND)


def _file(kind: str, record: object, bytes_max: int) -> bytes:
    data = encode({"kind": kind, "version": VERSION, **to_value(record)})
    if len(data) > bytes_max:
        raise PromptContentError(f"{len(data)} bytes are over the limit of {bytes_max}")
    return data


def _decoded(data: bytes, bytes_max: int) -> dict[str, object]:
    if len(data) > bytes_max:
        raise PromptContentError(f"{len(data)} bytes are over the limit of {bytes_max}")
    try:
        value = decode(data)
    except CanonicalError as error:
        raise PromptContentError(f"not canonical bytes: {error}") from error
    if not isinstance(value, dict):
        raise PromptContentError("not a map")
    return value


def _record(kind: type[Record], value: dict[str, object], name: str) -> Record:
    _require(value, "kind", name)
    _require(value, "version", name)
    try:
        return from_value(kind, value)
    except SchemaError as error:
        raise PromptContentError(str(error)) from error


def _require(value: Mapping[str, object], key: str, name: str) -> None:
    """Raise PromptContentError if a file is no `name`, or of another version."""
    if key == "kind" and value.get("kind") != name:
        raise PromptContentError(f"a {name} was expected, not {str(value.get('kind'))[:40]!r}")
    if key == "version" and value.get("version") != VERSION:
        raise PromptContentError(f"version {str(value.get('version'))[:20]} of {name}; this software reads {VERSION}")


def _long(
    kind: type[Record], data: bytes, name: str, piece_bytes_max: int, parts: Mapping[str, Part] = NO_PARTS
) -> Record:
    """Read a long file, which anybody may have written, piece by piece; of an answer, the first version too."""
    said: dict[str, object] = {}

    def head(key: str) -> Part:
        def read(reader: CanonicalReader) -> None:
            said[key] = reader.value()
            _require(said, key, name)

        return at_once(read)

    reader = CanonicalReader(data, f"a {name}", piece_bytes_max)
    try:
        record = finish(read_record(reader, kind, {**parts, "kind": head("kind"), "version": head("version")}))
        reader.require_end()
    except SchemaError as error:
        raise PromptContentError(str(error)) from error
    if said or kind is not AnswerContent:
        _require(said, "kind", name)
        _require(said, "version", name)
    return record


def _first_version(read: Callable[[], _FirstPromptContent]) -> PromptContent:
    try:
        turns = read().turns
        prompt = Prompt(tuple(Turn(turn.role, turn.content) for turn in turns))
    except ValueError as error:
        raise PromptContentError(f"neither a prompt of version {VERSION} nor one of the first: {error}") from error
    return PromptContent(ModelId(""), prompt, 0, SamplingParameters(), None, (), "", b"")
