"""What `quern status --json` says of gossip."""

from node.control.gossip_views import gossip_view
from p2p.gossip.metrics import Counters, Drop


def test_every_reason_for_a_drop_is_named_and_the_cost_is_per_delivery() -> None:
    counters = Counters(delivered_messages=4, cpu_seconds=0.006)
    counters.drop(Drop.BUDGET, 3)
    view = gossip_view(counters.snapshot(peers=2, mesh={"/t": 1}))
    assert view.dropped == {**{reason.value: 0 for reason in Drop}, "budget": 3}
    assert view.cpu_milliseconds_per_delivery == 1.5
    assert view.mesh == {"/t": 1}


def test_nothing_is_divided_by_no_delivery() -> None:
    assert gossip_view(Counters().snapshot(peers=0, mesh={})).cpu_milliseconds_per_delivery is None


def test_a_snapshot_does_not_change_with_what_is_counted_later() -> None:
    counters = Counters()
    before = counters.snapshot(peers=0, mesh={})
    counters.drop(Drop.FORGED)
    assert before.dropped["forged"] == 0
