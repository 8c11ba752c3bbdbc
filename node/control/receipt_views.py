"""What the daemon answers about receipts over the control socket."""

from node.control.views import View


class ReceiptView(View):
    """One receipt."""

    request_id: str
    at: int
    """UNIX seconds."""
    epoch: int
    model_id: str
    payer: str
    executor: str
    node_id: str
    prompt_tokens: int
    output_tokens: int
    price: str
    """In base units; 0 for an answer that was free."""
    is_countersigned: bool
    """Both sides signed it; else only the executor did."""
    is_verifiable: bool
    """Its tokens can be checked with the model."""
    has_answer: bool
    """Prompt and answer are kept with it."""


class ReceiptsView(View):
    """Receipts, newest first."""

    receipts: list[ReceiptView]


class ReceiptFileView(View):
    """The receipts of one request, as a file has them."""

    document: str
    """JSON text in the format of `quern receipts export`."""


class CheckView(View):
    """One line of a verification."""

    what: str
    outcome: str
    """`holds`, `fails` or `not checked`."""
    detail: str


class ChecksView(View):
    """What the daemon found out about one receipt."""

    checks: list[CheckView]
