"""What the daemon answers about the chain over the control socket. Amounts are decimal text in base units."""

from node.control.views import View


class ChainStatusView(View):
    """The chain at a glance: where it stands, what this account has, what it is still to send."""

    chain_id: int
    account: str
    endpoints: list[str]
    """The settings' endpoints, the preferred one first, without paths and passwords, which are often secret."""
    head_block: int
    confirmed_block: int
    epoch: int
    stage: str
    next_stage_block: int
    gas_balance: str | None
    """Wei; None while no endpoint answers."""
    token_balance: str | None
    low_balance: bool
    """Whether the account had less of the gas coin than its reserve at the sender's last look."""
    gas_reserve: str
    """Wei."""
    intents_pending: int
    intents_failed: int
    intents_done: int
    gas_spent: int


class StepView(View):
    """A transaction of an intent."""

    status: str
    nonce: int | None
    transaction: str | None


class IntentView(View):
    """Something the daemon sends, or has sent."""

    key: str
    status: str
    reason: str
    """Why it failed; empty otherwise."""
    gas_used: int
    steps: list[StepView]


class IntentsView(View):
    """The outbox, newest first."""

    intents: list[IntentView]
    pending_only: bool


class ChainParticipantView(View):
    """A participant as the chain has it."""

    account: str
    peer_id: str
    nodes: list[str]
    weight: int
    """Of the group in charge now."""
    deposited: str
    standing: str
    """`active`, `undercollateralised` or `barred`: only proofs of active ones count."""


class ChainParticipantsView(View):
    """All participants whose peer consented to the binding."""

    participants: list[ChainParticipantView]
    total_weight: int


class CollateralView(View):
    """This account's collateral."""

    account: str
    registered: bool
    standing: str
    deposited: str
    unbonding: str
    available_at: int
    """UNIX seconds from which what unbonds may be withdrawn; 0 if nothing does."""
    barred_until: int
    """First epoch whose proofs count."""
    min_collateral: str


class ChannelView(View):
    """A payment channel of this account."""

    payer: str
    payee: str
    deposited: str
    redeemed: str
    promised: str
    """The newest voucher that this node knows of it."""
    unlock_time: int | None
    """UNIX seconds from which the payer may withdraw; None while no withdrawal is announced."""


class ChannelsView(View):
    """This account's payment channels, those it pays from first."""

    channels: list[ChannelView]


class PromptView(View):
    """A prompt on chain."""

    prompt_id: int
    user: str
    executor: str
    model_id: str
    state: str
    """`open`, `answered`, `disputed`, `settled` or `reclaimed`."""
    price: str
    """What the answer costs; what is escrowed while there is none."""
    result_cid: str | None
    until_block: int | None
    """Last block for an answer, a dispute, or a verdict; None once the prompt has ended."""


class PromptsView(View):
    """Prompts that this account submitted or was drawn for, newest first."""

    prompts: list[PromptView]


class ChainProgress(View):
    """How far an action has come."""

    message: str


class ChainDoneView(View):
    """An action that is confirmed."""

    key: str
    what: str
    """For people, in the past tense."""
    transactions: list[str]
    gas_used: int
