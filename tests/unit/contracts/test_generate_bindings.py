"""The generator copes with what contracts may yet hold: overloads, names of Python's own, nested lists of structs."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from eth_abi.abi import encode as oracle_encode
from eth_hash.auto import keccak
from mypy import api as mypy

from contracts.tools import generate_bindings
from contracts.tools.binding_plan import UnsupportedAbiError, plan_contract
from contracts.tools.binding_source import module_source
from contracts.tools.python_names import overload_names, snake_case

ACCOUNT = "0x5B38Da6a701c568545dCfcB03FcB875f56beddC4"
REPOSITORY = Path(generate_bindings.__file__).parents[2]


def value(type_: str, name: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type_, "internalType": type_, **more}


def struct(internal: str, name: str, *components: dict[str, Any], suffix: str = "", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": f"tuple{suffix}",
        "internalType": f"struct {internal}{suffix}",
        "components": list(components),
        **more,
    }


def function(name: str, *inputs: dict[str, Any], outputs: Any = (), mutability: str = "nonpayable") -> dict[str, Any]:
    return {
        "type": "function",
        "name": name,
        "inputs": list(inputs),
        "outputs": list(outputs),
        "stateMutability": mutability,
    }


KIND = {"name": "kind", "type": "uint8", "internalType": "enum Lib.Kind"}
LEG = struct("Lib.Leg", "legs", value("address", "to"), value("uint256[2][]", "amounts"), KIND, suffix="[][2]")
ROUTE = struct("Odd.Route", "route", LEG, value("bytes32", "class"), value("bool", "decode"))
OTHER_ROUTE = struct("Lib.Route", "other", value("int64", "delta"))

ODD: dict[str, Any] = {
    "abi": [
        function("from", value("uint256", "import"), value("uint256", "import_"), value("uint256")),
        function("pay", value("address", "to")),
        function("pay", value("address", "to"), value("uint256", "maxPrice"), value("bytes", "note")),
        function("pay", value("uint256", "to")),
        function("plan", ROUTE, struct("Lib.Leg", "spare", *LEG["components"], suffix="[]")),
        function("fund", value("uint256", "value"), mutability="payable"),
        function("routeOf", value("uint256"), outputs=[ROUTE], mutability="view"),
        function("both", outputs=[OTHER_ROUTE, value("string"), KIND], mutability="pure"),
        function("nothing", mutability="view"),
        function("decodeEvent", mutability="view", outputs=[value("string[]")]),
        {"type": "event", "name": "Route", "inputs": [ROUTE | {"indexed": True}, OTHER_ROUTE | {"indexed": False}]},
        {"type": "event", "name": "Moved", "inputs": [value("address", "from", indexed=True)]},
        {
            "type": "event",
            "name": "Moved",
            "inputs": [value("address", "from", indexed=True), value("uint256[]", "by", indexed=True)],
        },
        {"type": "event", "name": "Moved", "inputs": [value("address", "from", indexed=True)]},
        {"type": "error", "name": "Moved", "inputs": [value("uint256", "max"), KIND]},
        {"type": "error", "name": "Error", "inputs": [LEG]},
        {"type": "fallback", "stateMutability": "payable"},
        {"type": "receive", "stateMutability": "payable"},
    ],
    "bytecode": "0x6001",
    "types": {
        "enum Lib.Kind": {"members": ["NONE", "lambda", "fooBar"], "notice": '@notice Kinds.\n @dev Of "legs"'},
        "struct Odd.Route": {"notice": "A way. @param class Which \\one\\."},
    },
    "userdoc": {"methods": {"pay(address)": {"notice": 'Pay """all""" of it to "to"'}}, "notice": "Odd things."},
    "devdoc": {"methods": {"pay(address)": {"params": {"to": "who"}}}, "title": "Odd"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    (root / "artifacts").mkdir()
    (root / "artifacts" / "OddThings.json").write_text(json.dumps(ODD), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def odd(folder: Path) -> Iterator[ModuleType]:
    source = generate_bindings.render(folder / "artifacts")["odd_things.py"]
    path = folder / "odd_things.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("odd_things", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "odd_things", module)
        spec.loader.exec_module(module)
        yield module


def leg(odd: ModuleType, amount: int) -> Any:
    return odd.Leg(to=ACCOUNT, amounts=((amount, 2),), kind=odd.Kind.FOO_BAR)


def test_names_of_python_and_unnamed_arguments_are_kept_apart(odd: ModuleType) -> None:
    assert odd.from_(import_=1, import_2=2, argument_2=3).calldata == keccak(b"from(uint256,uint256,uint256)")[
        :4
    ] + oracle_encode(["uint256"] * 3, [1, 2, 3])


def test_overloads_are_told_apart_by_what_they_take_beside(odd: ModuleType) -> None:
    assert odd.pay(to=ACCOUNT).function == "pay(address)"
    assert odd.pay_with_max_price_and_note(ACCOUNT, 1, b"").function == "pay(address,uint256,bytes)"
    assert odd.pay_2(to=1).function == "pay(uint256)"


def test_nested_lists_of_structs_are_encoded_and_decoded(odd: ModuleType) -> None:
    route = odd.Route(legs=((leg(odd, 1), leg(odd, 3)), ()), class_=bytes(32), decode_=True)
    legs = [[(ACCOUNT, [[1, 2]], 2), (ACCOUNT, [[3, 2]], 2)], []]
    route_type, leg_type = "((address,uint256[2][],uint8)[][2],bytes32,bool)", "(address,uint256[2][],uint8)[]"
    with pytest.raises(ValueError):  # a list of fixed length that is too long
        odd.plan(odd.Route(legs=((), (), ()), class_=bytes(32), decode_=True), [])
    expected = oracle_encode([route_type, leg_type], [([legs[0], legs[1]], bytes(32), True), legs[0]])
    made = odd.plan(route, [leg(odd, 1), leg(odd, 3)])
    assert made.calldata[4:] == expected
    assert made.calldata[:4] == keccak(f"plan({route_type},{leg_type})".encode())[:4]
    answer = oracle_encode([route_type], [([legs[0], legs[1]], bytes(32), True)])
    assert odd.route_of(5).decode(answer) == route


def test_wei_travels_with_payable_calls_only(odd: ModuleType) -> None:
    assert odd.fund(7, wei=9).value == 9
    assert odd.pay(ACCOUNT).value == 0
    with pytest.raises(TypeError):
        odd.fund(7)


def test_several_results_are_a_record_and_none_is_none(odd: ModuleType) -> None:
    result = odd.both().decode(oracle_encode(["(int64)", "string", "uint8"], [(-5,), "x", 1]))
    assert result == odd.BothResult(other=odd.LibRoute(delta=-5), output_1="x", kind=odd.Kind.LAMBDA)
    assert odd.nothing().decode(b"") is None


def test_a_function_with_the_name_of_a_helper_gets_another(odd: ModuleType) -> None:
    assert odd.decode_event_2().function == "decodeEvent()"


def test_an_event_with_the_name_of_a_struct_is_told_apart(odd: ModuleType) -> None:
    topics = [odd.RouteEvent.TOPIC, bytes(31) + b"\1"]
    decoded = odd.decode_event(topics, oracle_encode(["(int64)"], [(-1,)]))
    assert decoded == odd.RouteEvent(route_hash=topics[1], other=odd.LibRoute(delta=-1))


def test_overloaded_events_are_two_and_the_same_one_twice_is_one(odd: ModuleType) -> None:
    assert {event.SIGNATURE for event in odd.EVENTS.values()} == {
        "Moved(address)",
        "Moved(address,uint256[])",
        odd.RouteEvent.SIGNATURE,
    }
    topics = [odd.MovedWithBy.TOPIC, bytes(12) + bytes.fromhex(ACCOUNT[2:]), bytes(32)]
    assert odd.decode_event(topics, b"") == odd.MovedWithBy(from_=ACCOUNT, by_hash=bytes(32))


def test_an_error_keeps_its_own_name_in_words(odd: ModuleType) -> None:
    assert str(odd.MovedError(max_=1, kind=odd.Kind.NONE)) == "Moved: max 1, kind NONE"
    words = str(odd.ErrorError(legs=((leg(odd, 1),), ())))
    assert words == f"Error: legs [[(to {ACCOUNT}, amounts [[1, 2]], kind FOO_BAR)], []]"


def test_documentation_is_the_contracts_own(odd: ModuleType) -> None:
    assert "Odd things." in str(odd.__doc__)
    assert odd.pay.__doc__.splitlines() == [
        'Pay """all""" of it to "to"',
        "",
        "    to: who",
        "",
        "    Solidity: `pay(address)`.",
        "    ",
    ]
    assert "class_: Which \\one\\." in odd.Route.__doc__
    assert odd.Kind.__doc__.startswith('Kinds. Of "legs"')


def test_what_is_generated_passes_the_strict_type_checker(odd: ModuleType, folder: Path) -> None:
    cache = REPOSITORY / ".mypy_cache"
    said, errors, status = mypy.run(
        ["--strict", "--python-version", "3.11", "--cache-dir", str(cache), str(folder / "odd_things.py")]
    )
    assert (status, errors) == (0, ""), said


def test_the_same_abi_in_another_order_gives_the_same_functions() -> None:
    functions = [entry for entry in ODD["abi"] if entry["type"] == "function"]
    one = plan_contract("Odd", {**ODD, "abi": functions})
    other = plan_contract("Odd", {**ODD, "abi": functions[::-1]})
    assert [(f.name, f.signature) for f in one.functions] == [(f.name, f.signature) for f in other.functions]


def test_an_anonymous_event_is_refused_by_name() -> None:
    event = {"type": "event", "name": "Ghost", "inputs": [], "anonymous": True}
    with pytest.raises(UnsupportedAbiError, match="Ghost"):
        plan_contract("Odd", {"abi": [event]})


def test_an_enum_whose_members_are_unknown_is_a_number() -> None:
    plan = plan_contract("Odd", {"abi": [function("set", KIND)]})
    assert "def set_(kind: int) -> Call:" in module_source(plan)


def test_check_says_what_to_do_about_a_changed_a_missing_and_a_surplus_module(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = folder / "bindings"
    command = ["generate_bindings", "--artifacts", str(folder / "artifacts"), "--output", str(output)]
    monkeypatch.setattr("sys.argv", command)
    assert generate_bindings.main() == 0
    monkeypatch.setattr("sys.argv", [*command, "--check"])
    assert generate_bindings.main() == 0
    (output / "odd_things.py").write_text("changed", encoding="utf-8")
    (output / "__init__.py").unlink()
    (output / "old.py").write_text("", encoding="utf-8")
    assert generate_bindings.main() == 1
    said = capsys.readouterr().err
    assert [line.split(" ")[0] for line in said.splitlines()[:3]] == [
        "bindings/__init__.py",
        "bindings/odd_things.py",
        "bindings/old.py",
    ]
    assert "Run contracts/build and commit the result." in said
    monkeypatch.setattr("sys.argv", command)
    assert generate_bindings.main() == 0
    assert sorted(path.name for path in output.glob("*.py")) == ["__init__.py", "odd_things.py"]


@pytest.mark.parametrize(
    ("solidity", "python"),
    [
        ("submitPrompt", "submit_prompt"),
        ("promptCID", "prompt_cid"),
        ("promptCIDs", "prompt_cids"),
        ("MLNodeSet", "ml_node_set"),
        ("eip712Domain", "eip712_domain"),
        ("SIGNATURE_BYTES", "signature_bytes"),
        ("parameters_", "parameters"),
        ("_owner", "owner"),
        ("id", "id_"),
        ("from", "from_"),
        ("match", "match_"),
        ("", ""),
    ],
)
def test_names_become_snake_case(solidity: str, python: str) -> None:
    assert snake_case(solidity) == python


def test_the_overload_with_the_fewest_arguments_keeps_the_plain_name() -> None:
    names = overload_names("submit_prompt", [("cid", "model", "max_tokens"), ("cid", "model")])
    assert names == ("submit_prompt_with_max_tokens", "submit_prompt")
