"""What `quern status --json` shows of gossip: what came, what was dropped and why, and what it cost."""

from dataclasses import asdict

from node.control.views import GossipView
from p2p.gossip import GossipMetrics


def gossip_view(metrics: GossipMetrics) -> GossipView:
    """Return the view of a snapshot."""
    deliveries = metrics.delivered_messages
    milliseconds = round(1000 * metrics.cpu_seconds / deliveries, 3) if deliveries else None
    return GossipView(**asdict(metrics), cpu_milliseconds_per_delivery=milliseconds)
