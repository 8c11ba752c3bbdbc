"""Kademlia's table and lookup, against networks that are only a dictionary."""

import random

from p2p.discovery.kademlia import (
    BUCKET_PEERS_MAX,
    INVENTED_SHARE_MAX,
    QUERIES_MAX,
    REPLICATION,
    Lookup,
    RoutingTable,
    bucket_of,
    key_of,
    peer_key,
)
from p2p.identity import Identity

PEERS = [Identity(number.to_bytes(32)).peer_id for number in range(1, 201)]
OWN = PEERS[0]


def nearest(target: int, peers: list[str]) -> list[str]:
    return sorted(peers, key=lambda peer: peer_key(peer) ^ target)


def test_a_bucket_counts_the_leading_bits_that_two_keys_share() -> None:
    assert bucket_of(0, 1 << 255) == 0
    assert bucket_of(0, 1) == 255
    assert bucket_of((1 << 255) | 1, 1 << 255) == 255


def test_the_table_gives_the_closest_peers_and_never_this_node() -> None:
    table = RoutingTable(OWN)
    assert not table.add(OWN)
    held = [peer for peer in PEERS if table.add(peer)]
    target = key_of(b"content")
    assert table.closest(target) == nearest(target, held)[:REPLICATION]


def test_a_full_bucket_keeps_the_peers_it_has() -> None:
    table = RoutingTable(OWN)
    far = [peer for peer in PEERS if bucket_of(peer_key(OWN), peer_key(peer)) == 0]
    assert len(far) > BUCKET_PEERS_MAX
    assert [table.add(peer) for peer in far] == [True] * BUCKET_PEERS_MAX + [False] * (len(far) - BUCKET_PEERS_MAX)
    table.remove(far[0])
    assert table.add(far[-1])


def test_a_lookup_in_a_large_network_finds_the_closest_peers_from_one_it_knows() -> None:
    tables = {peer: RoutingTable(peer) for peer in PEERS}
    shuffled = random.Random(1)
    for peer, table in tables.items():
        for other in shuffled.sample(PEERS, 60):
            table.add(other)
        for other in nearest(peer_key(peer), PEERS)[:REPLICATION]:
            table.add(other)
    target = key_of(b"content")
    lookup = Lookup(target, OWN)
    lookup.add(PEERS[1])
    while (following := lookup.take()) is not None:
        lookup.answered(following[0], [(peer, ()) for peer in tables[following[0]].closest(target)])
    wanted = [peer for peer in nearest(target, PEERS) if peer != OWN][:REPLICATION]
    assert len(set(lookup.closest()) & set(wanted)) >= REPLICATION - 1
    assert lookup.queries <= QUERIES_MAX


def test_a_liar_that_invents_ever_closer_peers_cannot_lead_a_lookup_on_for_ever() -> None:
    lookup = Lookup(0, OWN)
    lookup.add(PEERS[1])
    invented = iter(Identity((10_000 + number).to_bytes(32)).peer_id for number in range(100_000))
    while (following := lookup.take()) is not None:
        lookup.answered(following[0], [(next(invented), ()) for _ in range(REPLICATION)])
    assert lookup.queries <= QUERIES_MAX


def test_one_liar_cannot_crowd_out_what_others_tell() -> None:
    lookup = Lookup(0, OWN)
    honest, liar = PEERS[1:3]
    lookup.add(honest)
    lookup.add(liar)
    lookup.answered(liar, [(peer, ()) for peer in PEERS[10:60]])
    assert sum(lookup.add(peer, (), liar) for peer in PEERS[60:90]) == 0
    told = PEERS[100 : 100 + INVENTED_SHARE_MAX]
    assert all(lookup.add(peer, (), honest) for peer in told)


def test_who_does_not_answer_is_not_among_the_closest() -> None:
    lookup = Lookup(0, OWN)
    lookup.add(PEERS[1])
    lookup.add(PEERS[2])
    lookup.take()
    lookup.take()
    assert lookup.take() is None
    lookup.failed(PEERS[1])
    lookup.answered(PEERS[2], [])
    assert lookup.closest() == [PEERS[2]]
