"""Gossip: topics, judges, batches, budgets and blame, over libp2p's GossipSub.

`service.Gossip` is what the rest uses. Under it, from the wire up: `framing` cuts a stream into RPCs, `signatures` says
who made a message, `pubsub` admits messages and blames their senders, `router` keeps the mesh and forwards, `batch` is
what a message carries, `outbox` decides when it goes, `budget` and `memory` bound what peers can make us do and keep,
`metrics` counts.
"""

from p2p.gossip.metrics import GossipMetrics
from p2p.gossip.service import Gossip, open_gossip
from p2p.gossip.verdict import Judge, Verdict

__all__ = ["Gossip", "GossipMetrics", "Judge", "Verdict", "open_gossip"]
