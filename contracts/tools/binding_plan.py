"""What the bindings of a contract will hold: its artifact, with a Python name and type for everything. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from contracts import abi
from contracts.tools.documentation import Documentation, entry_documentation, type_documentation
from contracts.tools.python_names import argument_names, class_name, member_names, overload_names, snake_case, unique

Json = Mapping[str, Any]

MODULE_NAMES = frozenset(
    {
        "Any",
        "CONTRACT",
        "Call",
        "ClassVar",
        "ContractEvent",
        "ERRORS",
        "EVENTS",
        "Error",
        "Event",
        "IntEnum",
        "Mapping",
        "RevertReason",
        "Self",
        "Sequence",
        "TypeAlias",
        "ViewCall",
    }
)
"""Names in the generated module that are not the contract's own."""


class UnsupportedAbiError(Exception):
    """The ABI holds something that has no binding; the message says what."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A value that Python has a type for."""

    python: str


@dataclass(frozen=True, slots=True)
class Enumeration:
    """A Solidity enum whose members are known."""

    name: str
    solidity: str
    members: tuple[str, ...]
    documentation: Documentation


@dataclass(frozen=True, slots=True)
class Structure:
    """A Solidity struct."""

    name: str
    solidity: str
    fields: tuple["Argument", ...]
    documentation: Documentation


@dataclass(frozen=True, slots=True)
class Array:
    """A list of any length or of a fixed one."""

    item: "Type"


Type = Plain | Enumeration | Structure | Array


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument, a struct's field or a returned value."""

    name: str
    solidity: str
    """The name in the source; empty if it has none there."""
    abi_type: str
    type: Type
    indexed: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """A function, or the constructor."""

    name: str
    signature: str
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    result_name: str
    """Class of its results, if it returns several."""
    is_view: bool
    is_payable: bool
    documentation: Documentation


@dataclass(frozen=True, slots=True)
class Record:
    """An event or a custom error."""

    name: str
    signature: str
    fields: tuple[Argument, ...]
    documentation: Documentation


@dataclass(frozen=True, slots=True)
class ContractPlan:
    """All bindings of one contract, in the order in which they are written."""

    contract: str
    documentation: Documentation
    enumerations: tuple[Enumeration, ...]
    structures: tuple[Structure, ...]
    """Each after those that it is made of."""
    events: tuple[Record, ...]
    errors: tuple[Record, ...]
    constructor: Function
    functions: tuple[Function, ...]


def plan_contract(contract: str, artifact: Json) -> ContractPlan:
    """Give names and types to everything in an artifact. Raises UnsupportedAbiError."""
    names = _TypeNames(contract, artifact.get("types", {}))
    entries: Sequence[Json] = artifact["abi"]
    functions = [entry for entry in entries if entry["type"] == "function"]
    # Types first: where an event or error has the name of a struct, the struct keeps it.
    for entry in [*functions, *(entry for entry in entries if entry["type"] != "function")]:
        for argument in [*entry.get("inputs", ()), *entry.get("outputs", ())]:
            names.type_of(argument)
    constructor = next((entry for entry in entries if entry["type"] == "constructor"), {"inputs": ()})
    events = _records("event", "Event", artifact, names)
    errors = _records("error", "Error", artifact, names)
    return ContractPlan(
        contract=contract,
        documentation=entry_documentation(artifact, "contract", ""),
        enumerations=tuple(names.enumerations.values()),
        structures=tuple(names.structures.values()),
        events=events,
        errors=errors,
        constructor=_function("creation_code", "constructor", {**constructor, "name": ""}, artifact, names),
        functions=_functions(functions, artifact, names),
    )


@dataclass(slots=True)
class _TypeNames:
    """Names of the classes of a module, given out once each."""

    contract: str
    described: Json
    enumerations: dict[str, Enumeration] = field(default_factory=dict)
    structures: dict[tuple[str, str], Structure] = field(default_factory=dict)
    taken: set[str] = field(default_factory=lambda: set(MODULE_NAMES))

    def type_of(self, argument: Json) -> Type:
        """Return the Python type of an ABI's argument, and remember structs and enums on the way."""
        written = str(argument["type"])
        if written.endswith("]"):
            item = {**argument, "type": written[: written.rindex("[")]}
            internal = str(argument.get("internalType", ""))
            if internal.endswith("]"):
                item["internalType"] = internal[: internal.rindex("[")]
            return Array(self.type_of(item))
        if written == "tuple":
            return self._structure(argument)
        internal = str(argument.get("internalType", ""))
        if internal.startswith("enum ") and self.described.get(internal, {}).get("members"):
            return self._enumeration(internal)
        return Plain(_plain_type(written))

    def claim(self, solidity: str, suffix: str = "") -> str:
        """Return a class name that no other has: the own one, else with its scope before or `suffix` behind it."""
        scope, _, local = solidity.rpartition(".")
        candidates = [class_name(local), class_name(scope) + class_name(local), class_name(local) + suffix]
        free = (candidate for candidate in candidates if candidate not in self.taken)
        name = next(free, None) or unique(class_name(local), self.taken)
        self.taken.add(name)
        return name

    def _enumeration(self, internal: str) -> Enumeration:
        if internal not in self.enumerations:
            described = self.described[internal]
            self.enumerations[internal] = Enumeration(
                name=self.claim(internal.removeprefix("enum ")),
                solidity=internal,
                members=member_names(described["members"]),
                documentation=type_documentation(described),
            )
        return self.enumerations[internal]

    def _structure(self, argument: Json) -> Structure:
        internal = str(argument.get("internalType", "struct Values"))
        # Two structs of one name in files of two libraries are told apart by what they hold.
        key = (internal, abi.canonical_type(argument))
        if key not in self.structures:
            fields = self.arguments(argument["components"], "field")
            self.structures[key] = Structure(
                name=self.claim(internal.removeprefix("struct ")),
                solidity=internal,
                fields=fields,
                documentation=type_documentation(self.described.get(internal, {})),
            )
        return self.structures[key]

    def arguments(self, entries: Sequence[Json], unnamed: str) -> tuple[Argument, ...]:
        """Return arguments with their names and types."""
        names = argument_names([str(entry.get("name", "")) for entry in entries], unnamed)
        return tuple(
            Argument(
                name=name,
                solidity=str(entry.get("name", "")),
                abi_type=abi.canonical_type(entry),
                type=self.type_of(entry),
                indexed=bool(entry.get("indexed", False)),
            )
            for name, entry in zip(names, entries, strict=True)
        )


def _plain_type(written: str) -> str:
    match written.rstrip("0123456789"):
        case "uint" | "int":
            return "int"
        case "bytes":
            return "bytes"
        case "address" | "string":
            return "str"
        case "bool":
            return "bool"
        case _:
            raise UnsupportedAbiError(f"values of type {written} have no binding")


def _named_overloads(
    entries: Sequence[Json], name_of: Callable[[str], str], names: _TypeNames
) -> list[tuple[str, Json]]:
    """Return the entries with a name each, sorted by signature; the same one twice counts once."""
    distinct = {abi.signature(entry): entry for entry in entries}
    result: list[tuple[str, Json]] = []
    for name, group in groupby(sorted(distinct.values(), key=abi.signature), key=lambda entry: str(entry["name"])):
        overloads = list(group)
        arguments = [[argument.name for argument in names.arguments(e["inputs"], "argument")] for e in overloads]
        result += zip(overload_names(name_of(name), arguments), overloads, strict=True)
    return result


def _functions(entries: Sequence[Json], artifact: Json, names: _TypeNames) -> tuple[Function, ...]:
    taken = {"creation_code", "decode_error", "decode_event"}
    functions = []
    for wanted, entry in _named_overloads(entries, snake_case, names):
        name = unique(wanted, taken)
        taken.add(name)
        functions.append(_function(name, abi.signature(entry), entry, artifact, names))
    return tuple(functions)


def _function(name: str, signature: str, entry: Json, artifact: Json, names: _TypeNames) -> Function:
    outputs = names.arguments(entry.get("outputs", ()), "output")
    camel = "".join(word.capitalize() for word in name.split("_"))
    return Function(
        name=name,
        signature=signature,
        inputs=names.arguments(entry["inputs"], "argument"),
        outputs=outputs,
        result_name=names.claim(f"{camel}Result") if len(outputs) > 1 else "",
        is_view=entry.get("stateMutability") in ("view", "pure"),
        is_payable=entry.get("stateMutability") == "payable",
        documentation=entry_documentation(artifact, "methods", signature),
    )


def _records(kind: str, suffix: str, artifact: Json, names: _TypeNames) -> tuple[Record, ...]:
    entries = [entry for entry in artifact["abi"] if entry["type"] == kind]
    for entry in entries:
        if entry.get("anonymous"):
            raise UnsupportedAbiError(f"event {entry['name']} is anonymous: nothing in its logs tells what they are")
    records = []
    for wanted, entry in _named_overloads(entries, class_name, names):
        signature = abi.signature(entry)
        fields = names.arguments(entry["inputs"], "argument")
        documentation = entry_documentation(artifact, f"{kind}s", signature)
        camel, _, extra = wanted.partition("_with_")
        tail = "".join(word.capitalize() for word in f"with_{extra}".split("_")) if extra else ""
        records.append(Record(names.claim(camel + tail, suffix), signature, fields, documentation))
    return tuple(records)
