"""What the operator sees of receipts, and how they are checked against this daemon's chain and engines."""

from collections.abc import Sequence
from dataclasses import replace

from node.control.jsonrpc import ErrorCode, RpcError
from node.control.receipt_methods import RECEIPTS_MAX, ReceiptParams, ReceiptsParams, VerifyParams
from node.control.receipt_views import ChecksView, CheckView, ReceiptFileView, ReceiptsView, ReceiptView
from node.ports import Chain, EngineFailedError, EngineRefusedError
from node.protocol.audit_bands import bands_of
from node.protocol.codec import SchemaError
from node.protocol.dossiers import (
    AnswerEvidence,
    Covering,
    Dossier,
    VectorEvidence,
    dossiers_from_json,
    dossiers_to_json,
)
from node.protocol.eip712 import channel_id
from node.protocol.identifiers import EpochNumber, RequestId
from node.protocol.records import EpochGroup, SignedReceipt
from node.protocol.results import current_group, registry_group
from node.protocol.verification import Check, unchecked
from node.services.epochs import EpochBook, ResultContentError, result_from_bytes
from node.services.receipt_checks import ChainFacts, check_against_chain
from node.services.receipt_tokens import CheckingEngine, check_tokens
from node.services.timing import position
from node.services.vector_checks import check_vectors
from node.store.books import Books


class DaemonReceiptOperations:
    """Implements node.control.receipt_methods.ReceiptOperations."""

    def __init__(self, chain: Chain, books: Books, epochs: EpochBook, engines: Sequence[object]) -> None:
        """`engines` are the ML nodes of this daemon; those that can prefill check tokens."""
        self._chain = chain
        self._books = books
        self._epochs = epochs
        self._engines = engines

    async def receipts(self, params: ReceiptsParams) -> ReceiptsView:
        """The newest receipts, given and got."""
        return ReceiptsView(receipts=[self._view(signed) for signed in self._books.receipts(limit=params.limit)])

    async def receipt(self, params: ReceiptParams) -> ReceiptFileView:
        """All receipts of one request."""
        request_id = self._request_id(params.request_id)
        dossiers = tuple(self._dossier(signed) for signed in self._books.receipts_of(request_id))
        if not params.with_answer:
            dossiers = tuple(replace(dossier, answer=None, vectors=None) for dossier in dossiers)
        return ReceiptFileView(document=dossiers_to_json(dossiers))

    async def verify(self, params: VerifyParams) -> ChecksView:
        """Check one receipt against the chain, and with an engine if one is named."""
        try:
            (dossier,) = dossiers_from_json(params.document)
        except ValueError as error:
            raise RpcError(ErrorCode.INVALID_PARAMS, f"not one receipt: {error}") from error
        checks = [*check_against_chain(dossier, self._facts(dossier))]
        if params.engine is not None:
            checks.append(await self._check_tokens(dossier, params.engine))
        return ChecksView(checks=[CheckView(what=c.what, outcome=c.outcome.value, detail=c.detail) for c in checks])

    def _request_id(self, beginning: str) -> RequestId:
        found = {
            signed.receipt.request_id
            for signed in self._books.receipts(limit=RECEIPTS_MAX)
            if signed.receipt.request_id.hex().startswith(beginning)
        }
        if not found and len(beginning) == 64 and self._books.receipts_of(RequestId(bytes.fromhex(beginning))):
            return RequestId(bytes.fromhex(beginning))
        if len(found) != 1:
            problem = "several receipts begin" if found else "no receipt begins"
            raise RpcError(
                ErrorCode.REFUSED, f"{problem} with {beginning}", "See `quern receipts list`; give more of the id."
            )
        return found.pop()

    def _view(self, signed: SignedReceipt) -> ReceiptView:
        receipt = signed.receipt
        return ReceiptView(
            request_id=receipt.request_id.hex(),
            at=receipt.at,
            epoch=receipt.epoch,
            model_id=receipt.model_id,
            payer=receipt.payer,
            executor=receipt.executor,
            node_id=receipt.node_id,
            prompt_tokens=receipt.prompt_tokens,
            output_tokens=receipt.output_tokens,
            price=str(receipt.price),
            is_countersigned=signed.payer_signature != b"",
            is_verifiable=receipt.is_verifiable,
            has_answer=self._books.answer_of(receipt.request_id, receipt.executor) is not None,
        )

    def _dossier(self, signed: SignedReceipt) -> Dossier:
        receipt, chain = signed.receipt, self._chain
        identity = channel_id(chain.chain_id, chain.payment_channels, receipt.payer, receipt.executor)
        held = self._books.issued_voucher(identity) or self._books.received_voucher(identity)
        kept = self._books.answer_of(receipt.request_id, receipt.executor)
        return Dossier(
            chain_id=chain.chain_id,
            payment_channels=chain.payment_channels,
            signed=signed,
            answer=kept if isinstance(kept, AnswerEvidence) else None,
            covering=None if held is None else Covering(held.voucher, held.signature),
            vectors=kept if isinstance(kept, VectorEvidence) else None,
        )

    def _facts(self, dossier: Dossier) -> ChainFacts:
        chain, epoch = self._chain, dossier.signed.receipt.epoch
        group, is_frozen = self._group_of(epoch)
        return ChainFacts(
            chain_id=chain.chain_id,
            payment_channels=chain.payment_channels,
            state=chain.state,
            unit_price=chain.schedule.of_epoch(epoch).unit_price,
            epoch=position(chain).epoch,
            group=group,
            is_frozen=is_frozen,
        )

    def _group_of(self, epoch: EpochNumber) -> tuple[EpochGroup | None, bool]:
        """The group of an epoch, and whether it was frozen by a result; None if its content was forgotten."""
        state = self._chain.state
        accepted = max((number for number in state.results if number < epoch), default=None)
        if accepted is None:
            return registry_group(epoch, state), False
        result, summary = self._epochs.result(accepted), state.results[accepted]
        if result is None:
            data = self._books.get_document(f"result/{summary.epoch}/{summary.content_cid}")
            try:
                result = None if data is None else result_from_bytes(data, summary)
            except ResultContentError:
                result = None
        return (None, True) if result is None else (current_group(epoch, state, {accepted: result}), True)

    async def _check_tokens(self, dossier: Dossier, name: str) -> Check:
        engine = next((engine for engine in self._engines if getattr(engine, "node_id", None) == name), None)
        if engine is None:
            names = ", ".join(sorted(str(getattr(engine, "node_id", "")) for engine in self._engines)) or "none"
            raise RpcError(ErrorCode.REFUSED, f"this daemon has no ML node {name}", f"Its nodes: {names}.")
        if not isinstance(engine, CheckingEngine):
            return unchecked("tokens", f"the engine of {name} cannot check tokens")
        record = self._chain.state.models.get(dossier.signed.receipt.model_id)
        try:
            receipt = dossier.signed.receipt
            band = bands_of(self._chain.state, self._group_of(receipt.epoch)[0])(
                receipt.executor, receipt.node_id, receipt.model_id
            )
            loaded_cid = None if record is None else record.cid
            if receipt.vectors:
                return await check_vectors(dossier, engine, loaded_cid, band)
            return await check_tokens(dossier, engine, loaded_cid, band)
        except (EngineFailedError, EngineRefusedError, SchemaError, ValueError) as error:
            return unchecked("tokens", f"the engine failed: {str(error)[:200]}")
