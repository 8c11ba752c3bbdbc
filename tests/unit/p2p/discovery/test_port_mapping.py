"""A router's port: mapped, renewed, given back. The router is a stand-in; `integration` has one that speaks UPnP."""

import trio
import trio.testing

from p2p.discovery.addresses import PeerAddress
from p2p.discovery.port_mapping import (
    LEASE_SECONDS,
    PORTS_TRIED_MAX,
    RENEW_SECONDS,
    Mapping,
    PortMapper,
    PortMappingError,
)
from p2p.identity import Identity

OWN = Identity(b"\1" * 32).peer_id


class Router:
    def __init__(self, ip: str = "8.8.8.8", taken: frozenset[int] = frozenset()) -> None:
        self.ip = ip
        self.taken = taken
        self.there = True
        self.mapped: dict[int, int] = {}
        self.calls = 0

    def find(self) -> str:
        if not self.there:
            raise PortMappingError("no router answers to UPnP")
        return self.ip

    def map(self, external_port: int, internal_port: int, lease_seconds: int) -> None:
        assert lease_seconds == LEASE_SECONDS
        self.calls += 1
        if external_port in self.taken:
            raise PortMappingError(f"the router refuses port {external_port}: it is taken")
        self.mapped[external_port] = internal_port

    def unmap(self, external_port: int) -> None:
        del self.mapped[external_port]


async def renewed(mapper: PortMapper) -> None:
    try:
        await mapper._renew()
    except PortMappingError as error:
        mapper.mapping, mapper.last_error = None, str(error)


async def test_a_taken_port_is_passed_over_and_the_one_in_use_is_kept() -> None:
    router = Router(taken=frozenset({4801, 4802}))
    mapper = PortMapper(OWN, lambda: 4801, router)
    await renewed(mapper)
    assert mapper.mapping == Mapping("8.8.8.8", 4803, 4801)
    assert mapper.addresses == (PeerAddress(OWN, "ip4", "8.8.8.8", 4803),)
    assert mapper.last_error == ""
    router.taken = frozenset()
    await renewed(mapper)
    assert mapper.mapping == Mapping("8.8.8.8", 4803, 4801)


async def test_a_router_without_a_free_port_is_asked_a_few_times_only() -> None:
    router = Router(taken=frozenset(range(65536)))
    mapper = PortMapper(OWN, lambda: 4801, router)
    await renewed(mapper)
    assert router.calls == PORTS_TRIED_MAX
    assert mapper.addresses == ()
    assert "refuses port" in mapper.last_error


async def test_behind_a_second_router_the_port_is_not_announced_and_the_operator_is_told() -> None:
    mapper = PortMapper(OWN, lambda: 4801, Router(ip="100.64.7.7"))
    await renewed(mapper)
    assert mapper.mapping is not None
    assert mapper.addresses == ()
    assert "behind another" in mapper.last_error


async def test_what_is_no_address_is_an_error_of_the_router() -> None:
    mapper = PortMapper(OWN, lambda: 4801, Router(ip="<html>"))
    await renewed(mapper)
    assert "<html>" in mapper.last_error


async def test_the_port_is_given_back_when_the_node_stops() -> None:
    router = Router()
    mapper = PortMapper(OWN, lambda: 4801, router)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapper.run)
        with trio.fail_after(10):
            while mapper.mapping is None:
                await trio.sleep(0.01)
        assert router.mapped == {4801: 4801}
        nursery.cancel_scope.cancel()
    assert router.mapped == {}


def test_a_lease_is_renewed_before_it_ends() -> None:
    assert RENEW_SECONDS < LEASE_SECONDS
