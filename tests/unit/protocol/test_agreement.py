"""Agreement on bundles: no cartel below a third leaves votes out, and what a quorum cannot have does not split it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.agreement import committed_order, left_out, pack_holders, unpack_holders
from node.protocol.identifiers import Address
from tests.builders import account

MEMBERS = [account(number) for number in range(1, 13)]
ORDER = committed_order(frozenset(MEMBERS))
ALL = frozenset(MEMBERS)


@given(st.frozensets(st.sampled_from(MEMBERS)), st.integers(0, 12))
def test_holdings_are_read_as_they_were_written(held: frozenset[Address], count: int) -> None:
    order = ORDER[:count]
    assert unpack_holders(pack_holders(held, order), order) == held & set(order)


def test_holdings_of_nobody_or_of_the_wrong_length_are_refused() -> None:
    for data in (b"", b"\x00", b"\x00\x00\x00", b"\x10\x00"):
        with pytest.raises(ValueError, match="bundles"):
            unpack_holders(data, ORDER)


def lacking(*numbers: int) -> frozenset[Address]:
    return ALL - {account(number) for number in numbers}


@given(st.sets(st.sampled_from(MEMBERS), max_size=3))
def test_a_cartel_below_a_third_leaves_nobody_out(cartel: set[Address]) -> None:
    holdings = {member: frozenset() if member in cartel else ALL for member in MEMBERS}
    assert left_out(ALL, holdings, dict.fromkeys(MEMBERS, 10)) == frozenset()


def test_what_a_third_lacks_cannot_be_part_of_a_quorum_and_is_left_out() -> None:
    holdings = {member: lacking(5) if index < 4 else ALL for index, member in enumerate(MEMBERS)}
    assert left_out(ALL, holdings, dict.fromkeys(MEMBERS, 10)) == {account(5)}


def test_the_silent_and_outsiders_lack_nothing() -> None:
    holdings = {MEMBERS[0]: lacking(5), account(99): frozenset[Address]()}
    assert left_out(ALL, holdings, {**dict.fromkeys(MEMBERS, 10)}) == frozenset()
    assert left_out(ALL, holdings, {}) == frozenset()


@given(st.dictionaries(st.sampled_from(MEMBERS), st.frozensets(st.sampled_from(MEMBERS))))
def test_holding_more_never_leaves_more_out(holdings: dict[Address, frozenset[Address]]) -> None:
    weights = dict.fromkeys(MEMBERS, 10)
    grown = {member: held | {account(3)} for member, held in holdings.items()}
    assert left_out(ALL, grown, weights) <= left_out(ALL, holdings, weights)
