"""The control socket's methods about receipts: their parameters, checked, and what each calls."""

from typing import Protocol

from pydantic import Field

from node.control.fields import RequestIdText
from node.control.methods import Emit, Method, Params
from node.control.receipt_views import ChecksView, ReceiptFileView, ReceiptsView
from node.control.views import View

RECEIPTS_MAX = 1000
DOCUMENT_CHARACTERS_MAX = 1024 * 1024


class ReceiptsParams(Params):
    """How many of the newest."""

    limit: int = Field(default=20, ge=1, le=RECEIPTS_MAX)


class ReceiptParams(Params):
    """Which request's."""

    request_id: RequestIdText
    """In hex; its beginning is enough where it is unique among the newest receipts."""
    with_answer: bool = True
    """Prompt and answer too, if they are kept."""


class VerifyParams(Params):
    """One receipt to check against the chain, and its tokens with an engine."""

    document: str = Field(max_length=DOCUMENT_CHARACTERS_MAX)
    """JSON text of a file with one receipt."""
    engine: str | None = Field(default=None, max_length=32)
    """Name of an ML node of this daemon."""


class ReceiptOperations(Protocol):
    """What the daemon tells of receipts. Methods raise RpcError for what can be acted on."""

    async def receipts(self, params: ReceiptsParams) -> ReceiptsView:
        """Return the newest receipts."""

    async def receipt(self, params: ReceiptParams) -> ReceiptFileView:
        """Return all receipts of one request with what is needed to check them."""

    async def verify(self, params: VerifyParams) -> ChecksView:
        """Check one receipt."""


def receipt_method_table(operations: ReceiptOperations) -> dict[str, Method]:
    """Return all methods by name."""

    async def receipts(params: ReceiptsParams, _emit: Emit) -> View:
        return await operations.receipts(params)

    async def receipt(params: ReceiptParams, _emit: Emit) -> View:
        return await operations.receipt(params)

    async def verify(params: VerifyParams, _emit: Emit) -> View:
        return await operations.verify(params)

    return {
        "receipts": Method(ReceiptsParams, receipts),
        "receipt": Method(ReceiptParams, receipt),
        "receipt_verify": Method(VerifyParams, verify),
    }
