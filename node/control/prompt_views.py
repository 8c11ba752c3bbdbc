"""What the daemon answers about prompts that were handed in. Amounts are decimal text in base units."""

from node.control.views import View


class PromptAskView(View):
    """A prompt."""

    ask_id: str
    mode: str
    """`chain` or `open`."""
    state: str
    """`posting`, `waiting`, `paying`, `answered`, `failed` or `reclaimed`."""
    reason: str
    model_id: str
    private: bool
    asked_at: int
    """UNIX seconds."""
    prompt_id: int | None
    """On chain."""
    prompt_cid: str | None
    result_cid: str | None
    executor: str | None
    prompt_tokens: int
    output_tokens: int
    price: str
    transaction: str | None


class PromptAsksView(View):
    """Prompts, newest first."""

    asks: list[PromptAskView]


class PromptAnswerView(View):
    """A prompt, with its answer if there is one."""

    ask: PromptAskView
    text: str | None
    finish_reason: str | None


class ReclaimedView(View):
    """A prompt on chain whose escrow is back."""

    prompt_id: int
