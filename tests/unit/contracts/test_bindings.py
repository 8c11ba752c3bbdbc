"""The bindings say what the ABIs say. The oracle for what is sent is web3's encoder, for what is read eth_abi's."""

import contextlib
import importlib
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import pytest
from eth_abi.abi import encode as oracle_encode
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st
from web3 import Web3

import contracts
from contracts import bindings
from contracts.abi import canonical_type, signature
from contracts.tools.binding_plan import plan_contract
from contracts.tools.python_names import snake_case
from tests.unit.contracts.abi_values import as_annotated, record, values_of

EXAMPLES = settings(max_examples=15, deadline=None)
ORACLE = Web3()


@dataclass(frozen=True)
class Entry:
    """A part of a contract's ABI and the module of its bindings."""

    contract: str
    module: ModuleType
    abi: Mapping[str, Any]
    types: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.contract}.{signature(self.abi)}"

    @cached_property
    def oracle(self) -> Any:
        """What web3 makes of this part."""
        return ORACLE.eth.contract(abi=[dict(self.abi)])

    def values(self, kind: str = "inputs") -> st.SearchStrategy[tuple[Any, ...]]:
        return st.tuples(*(values_of(argument, self.types) for argument in self.abi[kind]))


@cache
def artifact(contract: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((contracts.ARTIFACTS / f"{contract}.json").read_text(encoding="utf-8"))
    return loaded


def module_of(contract: str) -> ModuleType:
    return importlib.import_module(f"contracts.bindings.{snake_case(contract)}")


def entries(kind: str) -> list[Any]:
    return [
        pytest.param(found, id=str(found))
        for contract in contracts.names()
        for abi in contracts.load(contract).abi
        if abi["type"] == kind
        for found in [Entry(contract, module_of(contract), abi, artifact(contract)["types"])]
    ]


VIEWS = [found for found in entries("function") if found.values[0].abi["stateMutability"] in ("view", "pure")]


@cache
def function_names(contract: str) -> Mapping[str, str]:
    """Names in the bindings, by signature."""
    functions = plan_contract(contract, artifact(contract)).functions
    assert len({function.signature for function in functions}) == len(functions)
    return {function.signature: function.name for function in functions}


def binding(entry: Entry) -> Any:
    return getattr(entry.module, function_names(entry.contract)[signature(entry.abi)])


@cache
def hints_of(function: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(function)


def arguments(function: Any, values: Sequence[Any]) -> list[Any]:
    hints = [hint for name, hint in hints_of(function).items() if name not in ("return", "wei")]
    return [as_annotated(hint, value) for hint, value in zip(hints, values, strict=True)]


def bound(function: Any, values: Sequence[Any]) -> Any:
    wei = {"wei": 7} if "wei" in hints_of(function) else {}
    return function(*arguments(function, values), **wei)


def encoded(abi: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> bytes:
    return oracle_encode([canonical_type(argument) for argument in abi], values)


def as_log(entry: Entry, values: Sequence[Any]) -> tuple[list[bytes], bytes]:
    """Return topics and data as the EVM writes them."""
    topics = [keccak(signature(entry.abi).encode())]
    plain = []
    for argument, value in zip(entry.abi["inputs"], values, strict=True):
        if not argument["indexed"]:
            plain.append((argument, value))
        elif argument["type"] in ("string", "bytes"):
            topics.append(keccak(value.encode() if isinstance(value, str) else value))
        else:
            assert "[" not in argument["type"], "an indexed list: teach the test how it is hashed"
            topics.append(encoded([argument], [value]))
    return topics, encoded([argument for argument, _ in plain], [value for _, value in plain])


@pytest.mark.parametrize("entry", entries("function"))
@EXAMPLES
@given(data=st.data())
def test_calldata_is_what_web3_makes_of_the_same_values(entry: Entry, data: st.DataObject) -> None:
    values = data.draw(entry.values())
    made = bound(binding(entry), values)
    assert "0x" + made.calldata.hex() == entry.oracle.encode_abi(signature(entry.abi), args=list(values))
    assert (made.contract, made.function) == (entry.contract, signature(entry.abi))
    assert (type(made).__name__ == "ViewCall") == (entry.abi["stateMutability"] in ("view", "pure"))


@pytest.mark.parametrize("entry", VIEWS)
@EXAMPLES
@given(data=st.data())
def test_a_views_answer_comes_back_typed(entry: Entry, data: st.DataObject) -> None:
    function = binding(entry)
    question = bound(function, data.draw(entry.values()))
    answer = data.draw(entry.values("outputs"))
    (result,) = typing.get_args(hints_of(function)["return"])
    expected = as_annotated(result, answer[0]) if len(answer) == 1 else record(result, answer)
    decoded = question.decode(encoded(entry.abi["outputs"], answer))
    assert decoded == expected
    assert type(decoded) is type(expected)


@pytest.mark.parametrize("entry", entries("event"))
@EXAMPLES
@given(data=st.data())
def test_every_event_of_an_abi_is_decoded(entry: Entry, data: st.DataObject) -> None:
    values = data.draw(entry.values())
    topics, log_data = as_log(entry, values)
    decoded = entry.module.decode_event(topics, log_data)
    assert bindings.decode_event(entry.contract, topics, log_data) == decoded
    assert signature(entry.abi) == decoded.SIGNATURE
    hashed = [argument["indexed"] and argument["type"] in ("string", "bytes") for argument in entry.abi["inputs"]]
    as_logged = [
        keccak(value.encode() if isinstance(value, str) else value) if is_hashed else value
        for value, is_hashed in zip(values, hashed, strict=True)
    ]
    assert decoded == record(type(decoded), as_logged)


@pytest.mark.parametrize("entry", entries("error"))
@EXAMPLES
@given(data=st.data())
def test_every_error_of_an_abi_is_decoded_and_said_in_words(entry: Entry, data: st.DataObject) -> None:
    values = data.draw(entry.values())
    revert = keccak(signature(entry.abi).encode())[:4] + encoded(entry.abi["inputs"], values)
    decoded = entry.module.decode_error(revert)
    assert decoded == record(type(decoded), values)
    words = str(decoded)
    assert words.startswith(entry.abi["name"])
    assert all(str(value) in words for value in values if type(value) is str)
    assert str(bindings.decode_error(revert)) == words


@pytest.mark.parametrize("contract", contracts.names())
def test_the_tables_hold_every_event_and_error_of_the_abi(contract: str) -> None:
    module, abi = module_of(contract), contracts.load(contract).abi
    events = {keccak(signature(entry).encode()) for entry in abi if entry["type"] == "event"}
    errors = {keccak(signature(entry).encode())[:4] for entry in abi if entry["type"] == "error"}
    assert set(module.EVENTS) == events
    assert set(module.ERRORS) == errors
    assert bindings.EVENTS[contract] == module.EVENTS
    assert errors <= set(bindings.ERRORS)


@pytest.mark.parametrize("contract", contracts.names())
@EXAMPLES
@given(data=st.data())
def test_creation_code_carries_the_constructors_arguments(contract: str, data: st.DataObject) -> None:
    loaded = contracts.load(contract)
    inputs: list[dict[str, Any]] = next((entry["inputs"] for entry in loaded.abi if entry["type"] == "constructor"), [])
    values = [data.draw(values_of(argument, artifact(contract)["types"])) for argument in inputs]
    made = bound(module_of(contract).creation_code, values)
    assert made == loaded.bytecode + encoded(inputs, values)


@pytest.mark.parametrize("entry", entries("event"))
@EXAMPLES
@given(data=st.data())
def test_a_malformed_log_raises_nothing_but_value_error(entry: Entry, data: st.DataObject) -> None:
    topics, log_data = as_log(entry, data.draw(entry.values()))
    cut = data.draw(st.integers(0, max(0, len(log_data) - 1)))
    damage = data.draw(st.binary(max_size=64))
    with contextlib.suppress(ValueError):  # damage within a text may leave a log that is well formed
        entry.module.decode_event(topics, log_data[:cut] + damage + log_data[cut + len(damage) :])
    if log_data:
        with pytest.raises(ValueError):
            entry.module.decode_event(topics, b"")
    with pytest.raises(ValueError, match="indexed arguments"):
        entry.module.decode_event([*topics, bytes(32)], log_data)
    with pytest.raises(ValueError, match="not an event"):
        entry.module.decode_event([bytes(32), *topics[1:]], log_data)
    with pytest.raises(ValueError, match="not an event"):
        entry.module.decode_event([], log_data)


def test_a_number_that_is_no_member_of_its_enum_is_refused() -> None:
    from contracts.bindings import epoch_manager  # noqa: PLC0415 - the rest of the module is about any contract

    question = epoch_manager.current_stage()
    assert question.decode(oracle_encode(["uint64", "uint8", "uint256", "uint256"], [1, 2, 3, 4])).stage == 2
    with pytest.raises(ValueError, match="9 is not a valid Stage"):
        question.decode(oracle_encode(["uint64", "uint8", "uint256", "uint256"], [1, 9, 3, 4]))
