"""What the operator may do about an answer that he doubts: hand it over to be judged by everybody with the model.

*Detail.* Only what can be judged is taken, and each refusal says why it is none: both signed, drawn by the rule, asked
for from here, still kept, in the model's present version, its executor and this node with weight. If an engine of this
node has the model, it looks first: what it does not find proven the group would not either, and nobody else has to see.
"""

from collections.abc import Sequence

from node.control.challenge_methods import ChallengeParams, ChallengeView
from node.control.jsonrpc import ErrorCode, RpcError
from node.ports import Chain, Store
from node.protocol.audit_bands import bands_of
from node.protocol.audit_evidence import (
    NO_ROOM,
    OTHER_VERSION,
    AuditEvidence,
    KeptAnswer,
    are_names_short,
    kept_answer,
    why_unjudged,
)
from node.protocol.audit_votes import CHALLENGE_EPOCHS_MAX
from node.protocol.audits import judge_figures
from node.protocol.dossiers import AnswerEvidence
from node.protocol.model_changes import judged_from
from node.protocol.pricing import receipt_digest
from node.protocol.receipts import is_signed_by_payer
from node.protocol.records import Receipt, SignedReceipt
from node.protocol.shown_evidence import evidence_to_bytes
from node.protocol.verdicts import Verdict
from node.services.answers_at_hand import AnswersAtHand
from node.services.audit_reading import read_figures
from node.services.challenge_book import ChallengeBook
from node.services.epochs import EpochBook
from node.services.fuller_evidence import keep_fuller
from node.services.receipt_book import GivenAnswers
from node.services.receipt_tokens import CheckingEngine

RECEIPTS_SEARCHED = 1000
NAMED_MAX = 8
"""Receipts that a refusal names."""
CONSENT = (
    "Whoever judges it is shown the tokens of prompt and answer: every member with the model, and they may keep them. "
    "Until they are done with it, for some epochs, they are on this node's disk as well, unencrypted. "
    "If you agree to that, give --consent."
)


class DaemonChallengeOperations:
    """Implements node.control.challenge_methods.ChallengeOperations."""

    def __init__(
        self,
        chain: Chain,
        store: Store,
        epochs: EpochBook,
        at_hand: AnswersAtHand,
        given: GivenAnswers,
        book: ChallengeBook,
        engines: Sequence[object],
    ) -> None:
        """`at_hand` is the gateway's, `book` the one that this node's vote bundles take challenges from."""
        self._chain = chain
        self._store = store
        self._epochs = epochs
        self._at_hand = at_hand
        self._given = given
        self._book = book
        self._engines = [engine for engine in engines if isinstance(engine, CheckingEngine)]

    async def challenge(self, params: ChallengeParams) -> ChallengeView:
        """Have an answer judged."""
        signed = self._find(params.receipt)
        receipt = signed.receipt
        self._check_receipt(signed)
        self._check_group(receipt)
        kept = self._kept(receipt)
        if receipt.is_private and not params.consent:
            raise RpcError(ErrorCode.REFUSED, "the answer is private", CONSENT)
        is_checked = await self._check_tokens(receipt, kept)
        digest = receipt_digest(receipt)
        waiting = self._book.add(signed)  # first: what is in no book nobody would forget
        if waiting < 0:
            raise RpcError(
                ErrorCode.REFUSED, "the answer is challenged already", "What becomes of it: `quern audit`, next epoch."
            )
        evidence = AuditEvidence(signed, kept)
        keep_fuller(self._given, evidence, evidence_to_bytes(evidence))
        return ChallengeView(
            receipt=digest.hex(),
            request_id=receipt.request_id.hex(),
            executor=receipt.executor,
            model_id=receipt.model_id,
            is_private=receipt.is_private,
            is_checked=is_checked,
            waiting=waiting,
        )

    def _find(self, beginning: str) -> SignedReceipt:
        """Return the receipt whose digest or request id begins so."""
        got, _ = self._store.receipts_got(before=None, limit=RECEIPTS_SEARCHED)
        own = {receipt_digest(s.receipt): s for s in got if s.receipt.payer == self._chain.account}
        found = [
            digest
            for digest, signed in own.items()
            if digest.hex().startswith(beginning) or signed.receipt.request_id.hex().startswith(beginning)
        ]
        if not found:
            raise RpcError(
                ErrorCode.REFUSED,
                f"none of the newest answers that this node paid others for begins with {beginning}",
                "See `quern receipts list`. Only the gateway that asked can have an answer judged.",
            )
        if len(found) > 1:
            names = ", ".join(digest.hex()[:16] for digest in found[:NAMED_MAX])
            raise RpcError(ErrorCode.REFUSED, f"several receipts begin with {beginning}", f"Name one of: {names}")
        return own[found[0]]

    def _check_receipt(self, signed: SignedReceipt) -> None:
        receipt = signed.receipt
        for is_so, problem in (
            (receipt.vectors > 0, "it is about vectors, of whose inputs this node keeps no text: auditors draw these"),
            (not is_signed_by_payer(signed), "this node has not signed its receipt: nothing was agreed on"),
            (not are_names_short(receipt), "its receipt has a name that is too long for a vote"),
            (not receipt.is_within_rule, "it was drawn with penalties, biases or a format: there is no rule for these"),
            (not receipt.is_verifiable, "its executor said beforehand that it does not draw by the network's rule"),
            (receipt.output_tokens == 0, "it has no tokens"),
        ):
            if is_so:
                raise RpcError(ErrorCode.REFUSED, f"nobody can judge this answer: {problem}")

    def _check_group(self, receipt: Receipt) -> None:
        group, newest = self._epochs.group(), self._epochs.newest_result()
        heard = {member.participant for member in group.members if member.weight > 0}
        if self._chain.account not in heard:
            raise RpcError(
                ErrorCode.REFUSED,
                "this node has no weight in this epoch, and challenges are in the votes of those that have",
                "Ask by a gateway whose account has an ML node; its operator can challenge.",
            )
        known = heard | {committed.executor for committed in (() if newest is None else newest.books)}
        if receipt.executor not in known:
            raise RpcError(ErrorCode.REFUSED, "its executor has no weight any more, and no book of receipts")
        if newest is not None and receipt.epoch < newest.epoch - CHALLENGE_EPOCHS_MAX:
            raise RpcError(
                ErrorCode.REFUSED,
                f"the answer is older than {CHALLENGE_EPOCHS_MAX} epochs: what gave it may not be there any more",
            )
        model = group.get_epoch_model(receipt.model_id)
        if model is None or model.cid != receipt.model_cid:
            raise RpcError(ErrorCode.REFUSED, f"nobody serves that version of {receipt.model_id} any more")
        since = judged_from(self._chain.state, self._chain.schedule, receipt.model_id)
        unjudged = why_unjudged(receipt, model, since)
        if unjudged == OTHER_VERSION:
            raise RpcError(
                ErrorCode.REFUSED,
                f"the owner of {receipt.model_id} changed how it is run: the answer may be honest by what held before",
            )
        if unjudged == NO_ROOM:
            raise RpcError(ErrorCode.REFUSED, "nobody can judge this answer: its prompt fills the context of the model")

    def _kept(self, receipt: Receipt) -> KeptAnswer:
        kept = self._at_hand.find(receipt.request_id, receipt.executor)
        answer = self._store.answer_of(receipt.request_id, receipt.executor)
        if kept is None and isinstance(answer, AnswerEvidence):
            kept = kept_answer(answer)
        if kept is None:
            raise RpcError(
                ErrorCode.REFUSED,
                "the answer is not kept here any more",
                "Private ones stay in memory for [payments] private_answers_kept_seconds, until the daemon ends."
                if receipt.is_private
                else "The newest [payments] answers_kept_max are kept.",
            )
        return kept

    async def _check_tokens(self, receipt: Receipt, kept: KeptAnswer) -> bool:
        """Return whether an engine of this node's found it proven; raise if one found that it is not."""
        engine = next((engine for engine in self._engines if engine.model_id == receipt.model_id), None)
        group = self._epochs.group()
        model = group.get_epoch_model(receipt.model_id)
        if engine is None or model is None:
            return False
        bands = bands_of(self._chain.state, group)
        band = bands(receipt.executor, receipt.node_id, receipt.model_id)
        figures = await read_figures(engine, kept, band, model.context_length)
        if figures is None:
            return False
        if judge_figures(figures, band)[0] is not Verdict.INVALID:
            raise RpcError(
                ErrorCode.REFUSED,
                f"nothing is proven by this answer alone: of {figures.tokens} tokens {figures.mismatches} are not the "
                "rule's choice for the model",
                "That is what an engine of this node finds, and others would: it is not challenged. Nobody saw it.",
            )
        return True
