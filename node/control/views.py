"""What the daemon answers over the control socket. Amounts are decimal text in base units."""

from pydantic import BaseModel, ConfigDict

from node.doctor.findings import Finding


class View(BaseModel):
    """An answer. A newer daemon may add keys: an older client ignores them."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ServiceView(View):
    """A supervised service."""

    name: str
    state: str
    restarts: int
    last_error: str | None


class EngineView(View):
    """An ML node of this daemon."""

    node_id: str
    model_id: str
    """The model it is to serve."""
    ready: bool
    state: str = "unknown"
    """`stopped`, `loading`, `serving`, `mining`, `draining` or `failed`."""


class GossipView(View):
    """Gossip since the daemon's start; see p2p.gossip.metrics. All but `peers` and `mesh` only grow."""

    published_items: int
    published_messages: int
    received_messages: int
    delivered_messages: int
    delivered_items: int
    duplicates: int
    forwarded_frames: int
    dropped: dict[str, int]
    """By reason."""
    bytes_received: int
    bytes_sent: int
    cpu_seconds: float
    cpu_milliseconds_per_delivery: float | None
    """None before the first delivery."""
    peers: int
    mesh: dict[str, int]
    """Peers in the mesh of each topic."""


class ContentView(View):
    """Content since the daemon's start. All but `connections` only grow."""

    served_bytes: int
    """Bytes of blocks that the gateway gave."""
    answers: dict[str, int]
    """By HTTP status."""
    connections: int
    connections_accepted: int
    slow_readers_cut: int
    fetched_bytes: int
    """Verified."""
    duplicate_bytes: int
    """Of blocks that came whole a second time."""
    sources_dropped: int
    """Sources that lied, stalled or failed within a fetch."""


class StatusView(View):
    """The daemon at a glance."""

    version: str
    uptime_seconds: int
    roles: list[str]
    account: str
    peer_id: str
    addresses: list[str]
    network_id: str
    chain_id: int
    head_block: int
    confirmed_block: int
    epoch: int | None
    """None before the network's genesis block."""
    stage: str
    registered: bool
    """Whether the account is a participant on chain, bound to this peer id."""
    peers: int
    reachability: str = "unknown"
    """Whether peers can dial this node: `public`, `private` or `unknown`."""
    running_requests: int = 0
    """Requests that this daemon's engines answer right now."""
    api_url: str | None
    """None for a daemon that is no gateway and has no engines. Without the role it ends at the port: the miner API."""
    content_address: str | None
    engines: list[EngineView]
    services: list[ServiceView]
    gossip: GossipView | None = None
    content: ContentView | None = None


class PeerView(View):
    """A connected peer, with what its presence record says of it."""

    peer_id: str
    address: str
    latency_ms: int | None
    account: str | None
    """None while no valid presence record of it is known."""
    models: list[str]
    load: int | None


class PeersView(View):
    """All connected peers."""

    peers: list[PeerView]


class ModelView(View):
    """A model of the registry, as this node sees it."""

    model_id: str
    name: str
    cid: str
    version: int
    active: bool
    in_epoch: bool
    """Whether it is part of the current epoch's group, and so can be asked now."""
    price_per_token: str
    held: bool
    """Whether all of its content is on this node's disk."""
    served_by: list[str]
    """This daemon's ML nodes that have it ready."""
    executors: int
    """Participants that serve it in the current epoch."""
    calibrated: list[str]
    """Classes of hardware whose honest differences the registry has for this version, as `vllm on nvidia h200`."""


class ModelsView(View):
    """All models of the registry."""

    models: list[ModelView]


class DutyView(View):
    """Something this node does in the epoch."""

    kind: str
    """serve, keep-serving, mine, audit, judge-again, check, vote, form or load."""
    node_id: str | None
    """The ML node that does it; null if it is the participant's."""
    model_id: str | None
    state: str
    """ahead, now, done or missed."""
    first_block: int
    end_block: int
    """The first block that is too late."""
    blocks_left: int
    """Until it ends, or until it begins if that is ahead."""
    left: int | None = None
    """Of a number of things to do, those not done yet; null where there is but one, or the number is not known."""


class EpochView(View):
    """Where the epoch stands and what this node has to do next."""

    epoch: int
    stage: str
    block: int
    stage_first_block: int
    next_stage: str
    next_stage_block: int
    blocks_left: int
    next_duty: str
    members: int
    own_weight: int
    total_weight: int
    last_result_epoch: int | None
    """The newest epoch whose result was posted."""
    duties: list[DutyView]
    """Of the present epoch, in the order in which they begin."""
    epoch_first_block: int
    epoch_end_block: int
    """First block of the next epoch."""
    change_epoch: int | None
    """First epoch of other parameters that governance has scheduled; null if none are."""


class RedeemView(View):
    """What will become of one payer's newest voucher."""

    payer: str
    amount: str
    """What it promises beyond what was redeemed."""
    is_safe: bool
    """The deposit suffices for it, and the payer has not announced that it takes it back."""
    plan: str
    """Why it is redeemed now, or what it waits for."""


class EarningsView(View):
    """The books: what was promised, paid, earned and spent."""

    account: str
    answers: int
    output_tokens: int
    receipts_price: str
    """Price of all answers this node gave."""
    vouchers_received: str
    """Sum of the newest voucher of each channel this node is paid from."""
    vouchers_redeemed: str
    vouchers_open: str
    """What vouchers promise and was not redeemed yet."""
    vouchers_at_risk: str
    """That part of it that the payers' deposits may not pay: too small, or about to be taken back."""
    redeem_plan: list[RedeemView]
    vouchers_issued: str
    """Sum of the newest voucher of each channel this node pays from."""
    rewards_cumulative: str
    """Reward coins earned over all posted results."""
    rewards_claimed: str
    token_balance: str
    gas_balance: str
    """Wei of the account, which pays for transactions."""
    gas_spent: int
    """Gas used by this daemon's confirmed transactions."""


class AskEvent(View):
    """Some text of an answer that is still being written, or how far a prompt has come that was handed in."""

    text: str
    state: str = ""
    """Of a prompt that was handed in (PromptAskView); empty with text."""


class AskView(View):
    """A finished answer."""

    text: str
    model_id: str
    request_id: str
    executor: str
    prompt_tokens: int
    output_tokens: int
    price: str
    finish_reason: str
    seconds: float
    transaction: str | None
    """Hash of the transaction that submitted the prompt, for prompts on chain."""


class DoctorView(View):
    """Findings of the checks that need the running daemon."""

    findings: list[Finding]


class ConnectView(View):
    """A peer that was dialled."""

    peer_id: str


class StopView(View):
    """The daemon is stopping."""

    stopping: bool
