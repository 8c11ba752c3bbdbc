"""What a bundle carries of many proofs: each executor has its turn, and own proofs starve no others."""

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.identifiers import RequestId
from node.protocol.omission_choice import chosen_omissions, in_bundle_order
from node.protocol.omissions import OMISSIONS_MAX
from node.protocol.pricing import receipt_digest
from node.protocol.records import BookGap, Omission, SignedReceipt
from tests.builders import account
from tests.unit.protocol.test_audit_evidence import ANSWER, receipt_for

SALT = b"salt"


def proof(executor: int, number: int, *, is_bookless: bool = False) -> Omission:
    receipt = replace(receipt_for(ANSWER), executor=account(executor), request_id=RequestId(number.to_bytes(32)))
    return Omission(SignedReceipt(receipt, b""), None, None if is_bookless else BookGap(None, None))


def counts_of(chosen: tuple[Omission, ...]) -> Counter[str]:
    return Counter(omission.signed.receipt.executor for omission in chosen)


lists = st.lists(st.tuples(st.integers(1, 24), st.integers(0, 40), st.booleans()), max_size=60)


@settings(deadline=None)
@given(lists, lists, st.binary(max_size=4), st.integers(0, 24))
def test_room_is_shared_by_executors_and_none_of_it_stays_empty(
    own: list[tuple[int, int, bool]], handed: list[tuple[int, int, bool]], salt: bytes, count_max: int
) -> None:
    mine, theirs = ([proof(e, n, is_bookless=b) for e, n, b in found] for found in (own, handed))
    chosen = chosen_omissions(mine, theirs, salt, count_max=count_max)
    digests = {receipt_digest(omission.signed.receipt) for omission in chosen}
    assert len(digests) == len(chosen) <= count_max
    assert set(chosen) <= {*mine, *theirs}
    there: dict[str, list[Omission]] = {}
    for omission in (*mine, *theirs):
        there.setdefault(omission.signed.receipt.executor, []).append(omission)
    most = {
        executor: 1 if any(o.later is None for o in proofs) else len({receipt_digest(o.signed.receipt) for o in proofs})
        for executor, proofs in there.items()
    }
    counts = counts_of(chosen)
    assert len(chosen) == min(count_max, sum(most.values()))
    for executor, number in most.items():
        # Whoever has less than its share has nothing left that could be shown.
        assert counts[executor] == number or counts[executor] >= max(counts.values(), default=0) - 1


def test_who_leaves_out_everything_leaves_room_for_all_others() -> None:
    flood = [proof(1, number) for number in range(500)]
    others = [proof(executor, 1000 + executor) for executor in range(2, 10)]
    counts = counts_of(chosen_omissions([], [*flood, *others], SALT))
    assert counts == Counter({account(1): OMISSIONS_MAX - 8} | {account(executor): 1 for executor in range(2, 10)})


def test_of_one_executor_what_was_found_and_what_was_handed_over_take_turns() -> None:
    own, handed = [proof(1, number) for number in range(100)], [proof(1, number) for number in range(100, 105)]
    for salt in (b"a", b"b", b"c"):
        chosen = chosen_omissions(own, handed, salt)
        assert set(handed) <= set(chosen)
        assert len(set(chosen_omissions(handed, own, salt)) & set(handed)) == len(handed)


def test_of_more_executors_than_there_is_room_for_a_lot_decides_that_nobody_foresees() -> None:
    proofs = [proof(executor, executor) for executor in range(1, 40)]
    chosen = [set(chosen_omissions(proofs[:20], proofs[20:], bytes([salt]))) for salt in range(30)]
    assert set().union(*chosen) == set(proofs)
    assert chosen_omissions(proofs, (), SALT) == chosen_omissions(proofs[::-1], (), SALT)


def test_a_bundle_has_them_in_the_order_of_receipts() -> None:
    chosen = in_bundle_order(chosen_omissions([proof(1, number) for number in range(20)], (), SALT))
    digests = [receipt_digest(omission.signed.receipt) for omission in chosen]
    assert digests == sorted(digests)
