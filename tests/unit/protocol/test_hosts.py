"""Hosts that others name: what is taken can be looked up and written into a request, whatever was sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.hosts import HOST_CHARACTERS_MAX, is_host


@pytest.mark.parametrize(
    "host", ["203.0.113.7", "2001:db8::1", "host.example", "host-1", "old", "a_b", "xn--bcher-kva.example.", "x" * 63]
)
def test_addresses_and_names_are_hosts(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "a..b", ".a", "x" * 64, "a." * 127, "a b", "a\nb", "a\n", "a\r\nX: y", "a\0b", "ü", "bücher.example",
        "[::1]", "[::1", "::1%a\nb", "fe80::1%eth0", "host:80", "http://host", "user@host", "\u0661.2.3.4",
    ],
)  # fmt: skip
def test_what_cannot_be_looked_up_is_no_host(host: str) -> None:
    assert not is_host(host)


@given(st.text(max_size=HOST_CHARACTERS_MAX + 2) | st.text("aB1.-_:%\n\0 ü", max_size=80))
def test_a_host_can_be_looked_up_and_written_into_a_request(text: str) -> None:
    if is_host(text):
        assert text.encode("idna")
        assert text.encode("ascii").decode().isprintable()
        assert not set(text) & set(" /@[]%")
