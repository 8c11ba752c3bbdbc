"""A bundle has room for so many audits: which ones are in it nobody steers, and the order of a bundle is kept."""

from itertools import pairwise

from node.protocol.audit_votes import AUDIT_VOTES_MAX, NO_DIGEST, as_many_as_fit, audit_order
from node.protocol.audits import NO_FIGURES
from node.protocol.findings import AuditVote
from node.protocol.identifiers import EpochNumber
from node.protocol.verdicts import Verdict
from tests.builders import NODE, TINY, account


def votes(count: int) -> list[AuditVote]:
    return [
        AuditVote(account(1 + n % 40), n // 40, NODE, TINY, NO_DIGEST, Verdict.ABSTAIN, NO_FIGURES, "no-time")
        for n in range(count)
    ]


def test_what_fits_is_all_there_in_the_order_of_a_bundle() -> None:
    few = votes(100)
    assert as_many_as_fit(few[::-1], EpochNumber(3)) == tuple(sorted(few, key=audit_order))


def test_of_more_a_lot_decides_anew_in_each_epoch_and_alike_whatever_the_order() -> None:
    many = votes(AUDIT_VOTES_MAX + 2000)
    kept = as_many_as_fit(many, EpochNumber(3))
    assert len(kept) == AUDIT_VOTES_MAX
    assert kept == as_many_as_fit(many[::-1], EpochNumber(3))
    assert all(audit_order(one) < audit_order(other) for one, other in pairwise(kept))
    left = {audit_order(vote) for vote in many} - {audit_order(vote) for vote in kept}
    assert len({executor for executor, *_ in left}) == 40  # of every executor some: nobody's name saves it
    again = as_many_as_fit(many, EpochNumber(4))
    assert {audit_order(vote) for vote in many} - {audit_order(vote) for vote in again} != left
