"""What a bundle may say of answers: checked by itself, so that a malformed vote voids its bundle on every node
alike."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

from node.protocol.audit_evidence import MODEL_ID_LENGTH_MAX, NODE_ID_LENGTH_MAX, are_names_short
from node.protocol.findings import AuditVote, ReceiptBook
from node.protocol.identifiers import EpochNumber, Hash32
from node.protocol.omissions import OMISSIONS_MAX, SIBLINGS_MAX
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import DIGEST_BYTES, ROWS_MAX, TOKENS_BYTES
from node.protocol.records import Omission, VoteBundle
from node.protocol.verdicts import Verdict

AUDIT_VOTES_MAX = 8192
"""In one bundle: 512 executors' draws, five seats each, and all answers that are judged again."""
CODE_LENGTH_MAX = 64
CID_LENGTH_MAX = 128
CHALLENGES_MAX = 4
"""In one bundle: each has everybody with the model read an answer."""
CHALLENGE_EPOCHS_MAX = 16
"""An answer is not challenged that is so much older than the newest result: who paid could else wait for the day on
which its executor has other hardware, or choose the unluckiest of all that it ever answered."""
REJUDGED = -1
"""In place of a draw: the answer was accused or challenged in the newest result."""
NO_DIGEST = Hash32(bytes(DIGEST_BYTES))
"""In place of a receipt's digest, where the executor gave none."""
DRAW_LIMIT = 1 << 16


class AuditVoteError(ValueError):
    """A vote that no honest auditor casts."""


def as_many_as_fit(votes: Sequence[AuditVote], epoch: EpochNumber) -> tuple[AuditVote, ...]:
    """Return the votes that a bundle of `epoch` has room for, in its order: by lot, anew in each epoch."""
    if len(votes) <= AUDIT_VOTES_MAX:
        return tuple(sorted(votes, key=audit_order))

    def lot(vote: AuditVote) -> bytes:
        return hashlib.sha256(
            f"{epoch}/{vote.executor.lower()}/{vote.draw}/{vote.receipt_digest.hex()}".encode()
        ).digest()

    return tuple(sorted(sorted(votes, key=lot)[:AUDIT_VOTES_MAX], key=audit_order))


def audit_order(vote: AuditVote) -> tuple[str, int, bytes]:
    """Return what audits of a bundle ascend by, strictly: one for each draw, one for each answer judged again."""
    return vote.executor.lower(), vote.draw, vote.receipt_digest if vote.draw == REJUDGED else b""


def check_audits(bundle: VoteBundle) -> None:
    """Raise AuditVoteError unless the bundle's audits and its book are well formed."""
    if len(bundle.audits) > AUDIT_VOTES_MAX:
        raise AuditVoteError(f"more than {AUDIT_VOTES_MAX} audits in one bundle")
    if any(before >= after for before, after in pairwise(map(audit_order, bundle.audits))):
        raise AuditVoteError("audits must ascend by executor and draw, those judged again by digest, each once")
    for vote in bundle.audits:
        if vote.executor == bundle.validator:
            raise AuditVoteError("nobody audits itself")
        _check_vote(vote)
    digests = [receipt_digest(omission.signed.receipt) for omission in bundle.omissions]
    if len(digests) > OMISSIONS_MAX or any(before >= after for before, after in pairwise(digests)):
        raise AuditVoteError(f"at most {OMISSIONS_MAX} omissions, ascending by receipt digest, each once")
    for omission in bundle.omissions:
        check_omission(omission)
    _check_challenges(bundle)
    if bundle.receipts is not None:
        _check_book(bundle.receipts)


def _check_vote(vote: AuditVote) -> None:
    if not REJUDGED <= vote.draw < DRAW_LIMIT or len(vote.receipt_digest) != DIGEST_BYTES:
        raise AuditVoteError("an audit names a draw and a receipt's digest")
    if len(vote.reason) > CODE_LENGTH_MAX:
        raise AuditVoteError(f"reasons have at most {CODE_LENGTH_MAX} characters")
    if len(vote.node_id) > NODE_ID_LENGTH_MAX or len(vote.model_id) > MODEL_ID_LENGTH_MAX:
        raise AuditVoteError("an audit names a node or a model that has too long a name")
    if not vote.figures.are_of_one_answer:
        raise AuditVoteError("figures that no single answer has")
    if (vote.reason == "") is not (vote.verdict is Verdict.VALID):
        raise AuditVoteError("a reason for each verdict but valid")
    judged = vote.figures.tokens or vote.figures.claimed
    if bool(judged) is (vote.verdict is Verdict.ABSTAIN):
        raise AuditVoteError("a judgement has figures, an abstention has none")
    if judged and vote.receipt_digest == NO_DIGEST:
        raise AuditVoteError("a judgement is of a receipt")


def check_omission(omission: Omission) -> None:
    """Raise AuditVoteError unless a bundle may have the proof; whether it holds is another question."""
    if not are_names_short(omission.signed.receipt):
        raise AuditVoteError("an omitted receipt has too long a name")
    gaps = (omission.earlier, omission.later)
    rows = [row for gap in gaps if gap is not None for row in (gap.before, gap.after) if row is not None]
    if any(len(row.siblings) > SIBLINGS_MAX for row in rows):
        raise AuditVoteError(f"no book has a tree of more than {SIBLINGS_MAX} levels")


def _check_challenges(bundle: VoteBundle) -> None:
    digests = [receipt_digest(signed.receipt) for signed in bundle.challenges]
    if len(digests) > CHALLENGES_MAX or any(before >= after for before, after in pairwise(digests)):
        raise AuditVoteError(f"at most {CHALLENGES_MAX} challenges, ascending by receipt digest, each once")
    for signed in bundle.challenges:
        if signed.receipt.payer != bundle.validator or signed.receipt.executor == bundle.validator:
            raise AuditVoteError("who paid for an answer of another may challenge it, and nobody else")
        if not are_names_short(signed.receipt):
            raise AuditVoteError("a challenged receipt has too long a name")


def _check_book(book: ReceiptBook) -> None:
    if not 0 < book.count <= ROWS_MAX or not 0 <= book.output_tokens < book.count << 8 * TOKENS_BYTES:
        raise AuditVoteError(f"a book has 1 to {ROWS_MAX} receipts of 32-bit lengths")
    if len(book.root) != DIGEST_BYTES or not 0 < len(book.content_cid) <= CID_LENGTH_MAX:
        raise AuditVoteError("a book has a root and a content id")
