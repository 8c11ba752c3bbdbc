"""What the operator sees of audits: what was drawn, what this node voted, what the result made of all votes."""

import math
from collections.abc import Mapping
from typing import Protocol

from node.control.audit_methods import AuditsParams
from node.control.audit_views import AuditedBookView, AuditOutcomeView, AuditsView, AuditVoteView, OmissionView
from node.control.jsonrpc import ErrorCode, RpcError
from node.ports import Chain, Store
from node.protocol.audit_bands import bands_of
from node.protocol.audit_majorities import BandOf
from node.protocol.audit_sampling import draws_of
from node.protocol.audit_votes import NO_DIGEST
from node.protocol.audits import MILLION, gains
from node.protocol.findings import AuditOutcome, AuditVote
from node.protocol.identifiers import EpochNumber, Hash32
from node.protocol.pricing import receipt_digest
from node.protocol.records import EpochResult
from node.services.epochs import EpochBook, ResultContentError, result_from_bytes
from node.services.kept_omissions import KeptOmissions
from node.services.timing import position

EPOCHS_SEARCHED = 8
"""Back from the present one, when an answer is named instead of an epoch."""
RECEIPTS_SEARCHED = 1000
VOTES_SHOWN_MAX = 1000
"""An answer over the control socket is at most a mebibyte."""
OMISSIONS_SHOWN_MAX = 500


class Auditor(Protocol):
    """Where this node's votes are."""

    def votes(self, epoch: EpochNumber) -> tuple[AuditVote, ...]:
        """Return this node's audits of an epoch."""

    def omissions(self, epoch: EpochNumber) -> KeptOmissions:
        """Return what it knows of receipts that were not booked as they must."""


class DaemonAuditOperations:
    """Implements node.control.audit_methods.AuditOperations."""

    def __init__(self, chain: Chain, store: Store, epochs: EpochBook, auditor: Auditor) -> None:
        self._chain = chain
        self._store = store
        self._epochs = epochs
        self._auditor = auditor

    async def audits(self, params: AuditsParams) -> AuditsView:
        """The audits of an epoch, or of one answer."""
        now = position(self._chain).epoch
        known = {receipt_digest(s.receipt): s.receipt.request_id for s in self._store.receipts(limit=RECEIPTS_SEARCHED)}
        if params.epoch is not None and params.epoch > now:
            message = f"epoch {params.epoch} has not begun; this is epoch {now}"
            raise RpcError(ErrorCode.REFUSED, message, "See `quern epoch`.")
        if params.receipt is None:
            return self._view(EpochNumber(now if params.epoch is None else params.epoch), known, None)
        wanted = self._digests(params.receipt, now, known)
        searched = [now - back for back in range(EPOCHS_SEARCHED)] if params.epoch is None else [params.epoch]
        for epoch in searched:
            votes = self._auditor.votes(EpochNumber(epoch)) if epoch >= 0 else ()
            if any(vote.receipt_digest in wanted for vote in votes):
                return self._view(EpochNumber(epoch), known, wanted)
        raise RpcError(
            ErrorCode.REFUSED,
            f"this node audited no answer that begins with {params.receipt}",
            "It audits what it is drawn for. See `quern audit`; to check a receipt of your own: `quern verify`.",
        )

    def _digests(self, beginning: str, now: int, known: Mapping[Hash32, bytes]) -> set[Hash32]:
        """Return all receipts whose digest or request id begins so."""
        voted = {
            vote.receipt_digest
            for back in range(min(EPOCHS_SEARCHED, now + 1))
            for vote in self._auditor.votes(EpochNumber(now - back))
        }
        by_id = {digest for digest, request_id in known.items() if request_id.hex().startswith(beginning)}
        return by_id | {digest for digest in voted - {NO_DIGEST} if digest.hex().startswith(beginning)}

    def _view(self, epoch: EpochNumber, known: Mapping[Hash32, bytes], only: set[Hash32] | None) -> AuditsView:
        state = self._chain.state
        before = max((number for number in state.results if number < epoch), default=None)
        previous = None if before is None else self._result(before)
        result = self._result(epoch)
        band_of = bands_of(state, None if previous is None else previous.group)
        votes = [vote for vote in self._auditor.votes(epoch) if only is None or vote.receipt_digest in only]
        executors = {vote.executor for vote in votes}
        books = () if previous is None else previous.books
        outcomes = None if result is None else [o for o in result.audits if only is None or o.executor in executors]
        return AuditsView(
            epoch=epoch,
            books_of=before,
            books=[
                AuditedBookView(
                    executor=committed.executor,
                    answers=committed.book.count,
                    output_tokens=committed.book.output_tokens,
                    draws=draws_of(committed.book),
                )
                for committed in books
                if only is None or committed.executor in executors
            ],
            votes=[_vote_view(vote, known, band_of) for vote in votes[:VOTES_SHOWN_MAX]],
            outcomes=None if outcomes is None else [_outcome_view(outcome) for outcome in outcomes],
            omissions=[] if only else _omission_views(self._auditor.omissions(epoch), known)[:OMISSIONS_SHOWN_MAX],
        )

    def _result(self, epoch: int) -> EpochResult | None:
        """The content of the accepted result of an epoch, if it is here."""
        summary = self._chain.state.results.get(EpochNumber(epoch))
        if summary is None:
            return None
        found = self._epochs.result(EpochNumber(epoch))
        data = self._store.get_document(f"result/{summary.epoch}/{summary.content_cid}") if found is None else None
        if data is None:
            return found
        try:
            return result_from_bytes(data, summary)
        except ResultContentError:
            return None


def _vote_view(vote: AuditVote, known: Mapping[Hash32, bytes], band_of: BandOf) -> AuditVoteView:
    figures = vote.figures
    band = band_of(vote.executor, vote.node_id, vote.model_id)
    deviation = math.sqrt(figures.variance_micro * MILLION)
    judged = figures.tokens or figures.claimed
    return AuditVoteView(
        executor=vote.executor,
        node_id=vote.node_id,
        model_id=vote.model_id,
        draw=vote.draw,
        receipt="" if vote.receipt_digest == NO_DIGEST else vote.receipt_digest.hex(),
        request_id=known.get(vote.receipt_digest, b"").hex(),
        verdict=vote.verdict.value,
        reason=vote.reason,
        tokens=figures.tokens,
        mismatches=figures.mismatches,
        mean_margin=figures.margin_micro / MILLION / max(1, figures.tokens),
        mean_distance=figures.distance_micro / MILLION / figures.claimed if figures.claimed else None,
        surprise_z=figures.surprise_micro / deviation if deviation else None,
        evidence_bits=max(0, *gains(figures, band)) / MILLION if judged else 0.0,
    )


def _omission_views(kept: KeptOmissions, known: Mapping[Hash32, bytes]) -> list[OmissionView]:
    found = [(omission.omission, True, len(omission.told)) for omission in kept.own]
    found += [(omission, False, 0) for omission in kept.handed]
    return [
        OmissionView(
            executor=omission.signed.receipt.executor,
            receipt=(digest := receipt_digest(omission.signed.receipt)).hex(),
            request_id=known.get(digest, b"").hex(),
            has_book=omission.later is not None,
            is_own=is_own,
            handed_to=handed_to,
        )
        for omission, is_own, handed_to in found
    ]


def _outcome_view(outcome: AuditOutcome) -> AuditOutcomeView:
    return AuditOutcomeView(
        executor=outcome.executor,
        model_id=outcome.model_id,
        fate=outcome.fate.value,
        reason=outcome.reason,
        answers=outcome.answers,
        withheld=outcome.withheld,
        tokens=outcome.tokens,
        evidence_bits=max(outcome.evidence, default=0) / MILLION,
        accused=len(outcome.accused),
    )
