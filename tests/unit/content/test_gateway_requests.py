"""Requests to the gateway: what is asked for, or why it is refused, decided before anything is read."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content.gateway.admission import Admission, GatewayLimits, client_of
from p2p.content.gateway.ranges import EntityBytes, Span, parse_entity_bytes, parse_range
from p2p.content.gateway.request import Request, RequestError, RequestReader, parse_request
from p2p.content.gateway.wanted import Format, Scope, WantedBlock, WantedCar, WantedProbe, decide
from p2p.content.http_reply import ReplyError, parse_reply_head

CID = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def head(target: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: x", *headers)).encode()


def status_of(data: bytes) -> int:
    with pytest.raises(RequestError) as caught:
        decide(parse_request(data))
    return caught.value.status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"GET /ipfs/x", 400),
        (b"GET /ipfs/x HTTP/2.0\r\nHost: x", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\nHost: x", 400),
        (b"GET /ipfs/x HTTP/1.1", 400),  # no Host
        (head("/ipfs/x", "Content-Length: 5"), 400),
        (head("/ipfs/x", "Transfer-Encoding: chunked"), 400),
        (head("/ipfs/x", " folded: header"), 400),
        (head("/ipfs/x", "name : value"), 400),
        (head("/ipfs/x", *(f"h{number}: x" for number in range(100))), 400),
        (head("/ipfs/%ff?format=raw"), 400),
        (head("/ipfs/nonsense?format=raw"), 400),
        (head(f"/ipfs/{CID.upper()}?format=raw"), 400),
        (head(f"/ipfs/{CID}"), 400),
        (head(f"/ipfs/{CID}", "Accept: */*"), 400),
        (head(f"/ipfs/{CID}/a?format=raw"), 400),
        (head(f"/ipfs/{CID}/../x?format=car"), 400),
        (head(f"/ipfs/{CID}/%2e%2e?format=car"), 400),
        (head(f"/ipfs/{CID}/a%2fb?format=car"), 400),
        (head(f"/ipfs/{CID}?format=car&dag-scope=everything"), 400),
        (head(f"/ipfs/{CID}?format=car&entity-bytes=1"), 400),
        (head(f"/ipfs/{CID}?format=tar"), 406),
        (head(f"/ipfs/{CID}", "Accept: text/html"), 406),
        (head(f"/ipfs/{CID}?format=car&car-version=2"), 406),
        (head("/"), 404),
        (head("/ipns/x"), 404),
        (head("/ipfs/x", method="DELETE"), 405),
    ],
)
def test_what_is_refused_and_how(data: bytes, status: int) -> None:
    assert status_of(data) == status


def test_a_raw_block_is_asked_for_by_parameter_or_by_header() -> None:
    for data in (
        head(f"/ipfs/{CID}?format=raw"),
        head(f"/ipfs/{CID}/?format=raw"),
        head(f"/ipfs/{CID}", "Accept: application/vnd.ipld.raw"),
        head(f"/ipfs/{CID}", "Accept: text/html;q=0.1, application/vnd.ipld.raw"),
    ):
        wanted = decide(parse_request(data))
        assert isinstance(wanted, WantedBlock)
        assert str(wanted.cid) == CID


def test_a_car_is_asked_for_with_path_scope_and_bytes() -> None:
    wanted = decide(parse_request(head(f"/ipfs/{CID}/a/b%20c?format=car&dag-scope=entity&entity-bytes=-5:*")))
    assert isinstance(wanted, WantedCar)
    assert wanted.path == ("a", "b c")
    assert wanted.scope is Scope.ENTITY
    assert wanted.entity_bytes == EntityBytes(-5, None)
    plain = decide(parse_request(head(f"/ipfs/{CID}", "Accept: application/vnd.ipld.car; version=1; order=dfs")))
    assert isinstance(plain, WantedCar)
    assert plain.scope is Scope.ALL


def test_the_probe_is_known() -> None:
    assert decide(parse_request(head("/ipfs/bafkqaaa?format=raw"))) == WantedProbe(Format.RAW)


def test_connections_are_kept_as_http_says() -> None:
    assert parse_request(head("/")).keep_alive
    assert not parse_request(head("/", "Connection: close")).keep_alive
    assert not parse_request(b"GET / HTTP/1.0").keep_alive
    assert parse_request(b"GET / HTTP/1.0\r\nConnection: keep-alive").keep_alive


@given(st.binary(max_size=300))
def test_no_bytes_break_the_request_parser(data: bytes) -> None:
    try:
        decide(parse_request(data))
    except RequestError as error:
        assert 400 <= error.status < 500


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reply_parser(data: bytes) -> None:
    for candidate in (data, b"HTTP/1.1 200 OK\r\n" + data):
        with contextlib.suppress(ReplyError):
            parse_reply_head(candidate)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999999",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked",
        b"HTTP/2 200",
        b"ICY 200 OK",
    ],
)
def test_replies_of_doubtful_length_are_refused(data: bytes) -> None:
    with pytest.raises(ReplyError):
        parse_reply_head(data)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("bytes=0-9", Span(0, 10)),
        ("bytes=5-", Span(5, 100)),
        ("bytes=-7", Span(93, 100)),
        ("bytes=90-1000", Span(90, 100)),
        ("bytes=0-1,5-6", None),
        ("bytes=9-5", None),
        ("lines=1-2", None),
    ],
)
def test_ranges_of_a_block(header: str | None, wanted: Span | None) -> None:
    assert parse_range(header, 100) == wanted


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=500-600", "bytes=-0"])
def test_a_range_outside_of_the_block_is_named_as_such(header: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_range(header, 100)
    assert caught.value.status == 416


@given(st.integers(-(10**6), 10**6), st.none() | st.integers(-(10**6), 10**6), st.integers(0, 10**6))
def test_entity_bytes_stay_within_the_file(first: int, last: int | None, size: int) -> None:
    parsed = parse_entity_bytes(f"{first}:{'*' if last is None else last}")
    span = parsed.within(size)
    assert 0 <= span.start <= span.end <= size


def test_one_address_gets_its_share_of_connections_and_requests() -> None:
    now = 0.0
    admission = Admission(GatewayLimits(connections_per_address_max=2, requests_per_second=5), lambda: now)
    assert admission.enter("a")
    assert admission.enter("a")
    assert not admission.enter("a")
    assert admission.enter("b")
    admission.leave("a")
    assert admission.enter("a")
    assert [admission.wait_seconds("a") for _ in range(10)] == [0.0] * 10
    assert admission.wait_seconds("a") > 0
    assert admission.wait_seconds("b") == 0.0
    now = 1.0
    assert admission.wait_seconds("a") == 0.0


def test_addresses_of_one_network_count_as_one() -> None:
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:2")
    assert client_of("2001:db8::1") != client_of("2001:db8:0:1::1")
    assert client_of("::ffff:10.0.0.1") == client_of("10.0.0.1")


def read_or_status(read: Callable[[bytes], Request], data: bytes) -> Request | tuple[int, bool]:
    try:
        return read(data)
    except RequestError as error:
        return error.status, error.close


CIDS = st.one_of(
    st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=58, max_size=58).map(lambda digits: "b" + digits),
    st.sampled_from([CID, CID[:-1], CID + "a", CID[:20] + "/" + CID[21:], CID[:20] + "%41" + CID[23:], CID[:20] + "?"]),
)
ENDS = st.sampled_from(
    ["?format=raw", "?format=car", "", "/", "/name?format=car", "?format=raw&x=%zz", "#part", "?format=raw HTTP/1.1 x"]
)
HEADERS = st.sampled_from([(), ("Range: bytes=1-2",), ("Connection: close",), ("Content-Length: 5",)])


@given(st.lists(st.tuples(st.sampled_from(["GET", "HEAD", "POST"]), CIDS, ENDS, HEADERS), min_size=1, max_size=6))
def test_a_reader_that_remembers_the_request_before_reads_each_as_if_it_were_the_first(
    requests: list[tuple[str, str, str, tuple[str, ...]]],
) -> None:
    reader = RequestReader()
    for method, cid, end, headers in requests:
        data = head(f"/ipfs/{cid}{end}", *headers, method=method)
        for _ in range(2):
            assert read_or_status(reader.read, data) == read_or_status(parse_request, data)
