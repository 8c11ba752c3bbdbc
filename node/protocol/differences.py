"""Where two records differ, to the field: what two nodes that formed different results need to know first.

Lists of records are compared by what the records are about, not by their place: one entry too many is one difference.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from node.protocol.canonical import CanonicalValue
from node.protocol.codec import to_value

DIFFERENCES_MAX = 200
"""More tell no more; two results of other epochs differ everywhere."""
VALUE_CHARACTERS_MAX = 120
IDENTITIES = (
    ("participant", "node_id"),
    ("participant", "model_id"),
    ("participant", "offence"),
    ("participant",),
    ("executor", "node_id"),
    ("executor",),
    ("validator",),
    ("account",),
    ("node_id",),
    ("model_id",),
    ("epoch",),
)
"""Which fields say what a record is about: the first that all records of a list have, each combination once."""
ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that differs."""

    path: str
    """Such as `nodes[0x7E5F…, node-1].weight`."""
    subject: str
    """The account that the innermost record with one is about; empty where there is none."""
    ours: str
    theirs: str


def differences(ours: object, theirs: object) -> tuple[Difference, ...]:
    """Return the differences of two records of one type, in the order of their fields; at most DIFFERENCES_MAX."""
    found = []
    for difference in _compare(to_value(ours), to_value(theirs), "", ""):
        found.append(difference)
        if len(found) == DIFFERENCES_MAX:
            break
    return tuple(found)


def _compare(ours: CanonicalValue, theirs: CanonicalValue, path: str, subject: str) -> Iterator[Difference]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        about = _subject(ours, subject)
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            inner = f"{path}.{name}" if path else str(name)
            yield from _compare(ours.get(name), theirs.get(name), inner, about)
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        yield from _compare_lists(ours, theirs, path, subject)
    elif ours != theirs:
        yield Difference(path, subject, _text(ours), _text(theirs))


def _compare_lists(
    ours: Sequence[CanonicalValue], theirs: Sequence[CanonicalValue], path: str, subject: str
) -> Iterator[Difference]:
    by_name, others = _named(ours, theirs)
    for name in [*by_name, *(name for name in others if name not in by_name)]:
        inner = f"{path}[{name}]"
        if name in by_name and name in others:
            yield from _compare(by_name[name], others[name], inner, subject)
        else:
            about = _subject(by_name.get(name, others.get(name)), subject)
            yield Difference(inner, about, _text(by_name.get(name, ABSENT)), _text(others.get(name, ABSENT)))


def _named(
    ours: Sequence[CanonicalValue], theirs: Sequence[CanonicalValue]
) -> tuple[dict[str, CanonicalValue], dict[str, CanonicalValue]]:
    """Return both lists by what their records are about, or by place."""
    for fields in IDENTITIES:
        one, other = _by(fields, ours), _by(fields, theirs)
        if one is not None and other is not None:
            return one, other
    return _by_place(ours), _by_place(theirs)


def _by(fields: tuple[str, ...], records: Sequence[CanonicalValue]) -> dict[str, CanonicalValue] | None:
    named: dict[str, CanonicalValue] = {}
    for record in records:
        if not isinstance(record, Mapping) or any(field not in record for field in fields):
            return None
        named[", ".join(str(record[field]) for field in fields)] = record
    return named if len(named) == len(records) else None


def _by_place(items: Sequence[CanonicalValue]) -> dict[str, CanonicalValue]:
    return {str(place): item for place, item in enumerate(items)}


def _subject(record: CanonicalValue, outer: str) -> str:
    if isinstance(record, Mapping):
        for field in ("participant", "executor", "validator", "account"):
            if isinstance(found := record.get(field), str):
                return found
    return outer


def _text(value: CanonicalValue) -> str:
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"
