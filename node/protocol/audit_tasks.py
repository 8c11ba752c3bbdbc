"""What one member has to audit in an epoch, answer by answer, and its vote on an answer that it did not read."""

import hashlib
from dataclasses import dataclass

from node.protocol.audit_sampling import judges_of
from node.protocol.audit_votes import NO_DIGEST, REJUDGED
from node.protocol.audits import NO_FIGURES
from node.protocol.findings import AuditVote
from node.protocol.identifiers import Address, Hash32, ModelId, NodeId
from node.protocol.receipt_books import BookRow
from node.protocol.records import EpochResult
from node.protocol.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class AuditTask:
    """One answer to audit."""

    executor: Address
    draw: int
    digest: Hash32
    booked: BookRow | None
    """Its row in the executor's book; None for what is judged again."""
    is_accused: bool = False
    """Whether it is judged again because its executor is accused by it, and not because it was challenged alone."""


def judged_again(previous: EpochResult, seed: Hash32, account: Address) -> dict[Address, list[AuditTask]]:
    """Return what `account` judges again, by executor; each one's answers in an order that follows from `seed`.

    The same for all judges, so that they hear the same ones if time runs out, and nobody's choice: an executor
    could else give its true and heavy answers digests that come first.
    """
    found: dict[Address, list[AuditTask]] = {}
    for outcome in previous.audits:
        if account in judges_of(outcome, previous.group):
            accused = set(outcome.accused)
            found.setdefault(outcome.executor, []).extend(
                AuditTask(outcome.executor, REJUDGED, digest, None, digest in accused)
                for digest in dict.fromkeys((*outcome.accused, *outcome.challenged))
            )
    for tasks in found.values():
        tasks.sort(key=lambda task: hashlib.sha256(seed + task.digest).digest())
    return found


def accused_answers(previous: EpochResult, executor: Address) -> frozenset[Hash32]:
    """Return the answers that an executor is accused of, with any model.

    They are what draws fell on from its book in the result before `previous`, which the audits of `previous` drew from,
    and from no older one, however long the accusation is open: each epoch accuses of what was audited in it. Those that
    are challenged as well are among them: who pays for answers would else choose what is added up.
    """
    own = (outcome for outcome in previous.audits if outcome.executor == executor)
    return frozenset(digest for outcome in own for digest in outcome.accused)


def judges_by_answer(previous: EpochResult) -> dict[Hash32, frozenset[Address]]:
    """Return who judges what again, by the receipts' digests."""
    return {
        digest: judges_of(outcome, previous.group)
        for outcome in previous.audits
        for digest in (*outcome.accused, *outcome.challenged)
    }


def task_order(task: AuditTask) -> tuple[str, int, bytes]:
    """Return the place of the task's vote in a bundle, as `audit_order` says it of the vote."""
    return task.executor.lower(), task.draw, task.digest if task.draw == REJUDGED else b""


def abstention(task: AuditTask, reason: str) -> AuditVote:
    """Return the vote on an answer of which nothing is known yet but the draw."""
    digest = task.digest if task.draw == REJUDGED else NO_DIGEST
    return AuditVote(task.executor, task.draw, NodeId(""), ModelId(""), digest, Verdict.ABSTAIN, NO_FIGURES, reason)
