"""Proofs on the disk: what was found or taken is there after a restart, until it is decided."""

from node.protocol.identifiers import EpochNumber
from node.protocol.pricing import receipt_digest
from node.services.kept_omissions import KeptOmission, KeptOmissions, forget_handed
from node.store.books import Books
from node.store.database import Database
from tests.builders import account
from tests.unit.services.test_omission_desk import EPOCH, proof


def books() -> Books:
    return Books(Database(":memory:"), account(1))


def test_what_is_kept_is_there_after_a_restart_and_told_who_has_it() -> None:
    store = books()
    kept, own, handed = KeptOmissions(store, EPOCH), [proof(2, number) for number in range(3)], proof(3, 9)
    for omission in own:
        kept.add_own(omission)
    kept.add_handed(handed)
    kept.note_told(own[1], account(7))
    kept.note_told(own[1], account(8))
    for again in (kept, KeptOmissions(store, EPOCH)):
        assert set(again.own) == {
            KeptOmission(own[0]), KeptOmission(own[1], (account(7), account(8))), KeptOmission(own[2])
        }  # fmt: skip
        assert again.handed == (handed,)
        assert again.has_own(receipt_digest(own[0].signed.receipt))
        assert again.has_handed(receipt_digest(handed.signed.receipt))
        assert not again.has_own(receipt_digest(handed.signed.receipt))
    assert KeptOmissions(store, EpochNumber(EPOCH + 1)).own == ()


def test_what_cannot_be_read_is_forgotten_and_all_else_stays() -> None:
    store = books()
    KeptOmissions(store, EPOCH).add_own(proof(2, 1))
    store.put_document(f"omissions/{EPOCH}/own/ffff", b"not a proof")
    assert len(KeptOmissions(store, EPOCH).own) == 1
    assert len(store.document_keys("omissions/")) == 1


def test_what_was_handed_over_goes_when_it_is_decided_and_what_was_found_stays() -> None:
    store = books()
    for epoch in (EPOCH, EpochNumber(EPOCH + 1)):
        kept = KeptOmissions(store, epoch)
        kept.add_own(proof(2, 1))
        kept.add_handed(proof(3, 2))
    forget_handed(store, EpochNumber(EPOCH + 1))
    before, now = KeptOmissions(store, EPOCH), KeptOmissions(store, EpochNumber(EPOCH + 1))
    assert (len(before.own), len(before.handed)) == (1, 0)
    assert (len(now.own), len(now.handed)) == (1, 1)


def test_what_makes_room_is_gone_from_the_disk_too() -> None:
    store = books()
    kept, omission = KeptOmissions(store, EPOCH), proof(3, 2)
    kept.add_handed(omission)
    kept.drop_handed(receipt_digest(omission.signed.receipt))
    assert kept.handed == KeptOmissions(store, EPOCH).handed == ()
