"""What the daemon answers about API keys over the control socket. Amounts are decimal text in base units."""

from node.control.views import View


class KeySpendingView(View):
    """What was asked and spent."""

    requests: int
    prompt_tokens: int
    output_tokens: int
    amount: str


class KeyView(View):
    """A key, and what it has spent."""

    name: str
    """Empty for one that was revoked."""
    key_id: str
    expires_at: int | None
    """UNIX seconds."""
    is_expired: bool
    day_amount_max: str | None
    total_amount_max: str | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    models: list[str]
    today: KeySpendingView
    total: KeySpendingView
    reserved: str
    """What running requests may still cost."""


class KeysView(View):
    """All keys, those of the file first."""

    keys: list[KeyView]
    has_file: bool
    """Without a file of keys, whoever reaches the API may ask, if it may be open at all."""
