"""JSON-RPC as data: what is a request, what is none, and what its sender is told."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.control.jsonrpc import BATCH_MAX, BadRequest, ErrorCode, Request, RpcError, parse_frame

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def parse_one(value: object) -> Request | BadRequest:
    frame = parse_frame(json.dumps(value).encode())
    assert not frame.is_batch
    return frame.requests[0]


def test_a_request_is_read_in_full() -> None:
    request = parse_one({"jsonrpc": "2.0", "id": 7, "method": "ask", "params": {"a": 1}})
    assert request == Request(7, "ask", {"a": 1}, is_notification=False)


def test_without_an_id_it_is_a_notification() -> None:
    request = parse_one({"jsonrpc": "2.0", "method": "status"})
    assert isinstance(request, Request)
    assert request.is_notification
    assert request.params == {}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (7, ErrorCode.INVALID_REQUEST),
        ({}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "1.0", "id": 1, "method": "x"}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "method": 3}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "method": "x" * 65}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": True, "method": "x"}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": {}, "method": "x"}, ErrorCode.INVALID_REQUEST),
        ({"jsonrpc": "2.0", "id": 1, "method": "x", "params": [1]}, ErrorCode.INVALID_PARAMS),
        ({"jsonrpc": "2.0", "id": 1, "method": "x", "params": None}, ErrorCode.INVALID_PARAMS),
    ],
)
def test_what_is_no_request_gets_its_code(value: object, code: ErrorCode) -> None:
    bad = parse_one(value)
    assert isinstance(bad, BadRequest)
    assert bad.error.code is code


def test_a_batch_may_hold_good_and_bad_requests() -> None:
    frame = parse_frame(b'[{"jsonrpc":"2.0","id":1,"method":"a"}, 1]')
    assert frame.is_batch
    assert isinstance(frame.requests[0], Request)
    assert isinstance(frame.requests[1], BadRequest)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", ErrorCode.PARSE_ERROR),
        (b"{", ErrorCode.PARSE_ERROR),
        (b"\xff\xfe", ErrorCode.PARSE_ERROR),
        (b'{"id": NaN}', ErrorCode.PARSE_ERROR),
        (b"[" * 100_000, ErrorCode.PARSE_ERROR),
        (b"1" * 100_000, ErrorCode.PARSE_ERROR),
        (b"[]", ErrorCode.INVALID_REQUEST),
        (json.dumps([1] * (BATCH_MAX + 1)).encode(), ErrorCode.INVALID_REQUEST),
    ],
)
def test_what_is_no_frame_gets_its_code(data: bytes, code: ErrorCode) -> None:
    with pytest.raises(RpcError) as caught:
        parse_frame(data)
    assert caught.value.code is code


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_input_breaks_the_parser(data: bytes) -> None:
    try:
        frame = parse_frame(data)
    except RpcError as error:
        assert error.code in (ErrorCode.PARSE_ERROR, ErrorCode.INVALID_REQUEST)
    else:
        assert frame.requests


@given(st.dictionaries(st.sampled_from(["jsonrpc", "id", "method", "params"]), json_values | st.just("2.0")))
def test_what_parses_as_a_request_has_the_parts_of_one(value: dict[str, Any]) -> None:
    request = parse_one(value)
    if isinstance(request, Request):
        assert value["jsonrpc"] == "2.0"
        assert request.method == value["method"]
        assert isinstance(request.params, dict)
