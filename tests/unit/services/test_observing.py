"""What a node says of others: seen and not seen, measured and served, since its last bundle, and nothing it cannot."""

from dataclasses import replace
from typing import Any

from node.ports import Head
from node.protocol.findings import SpeedMeasure
from node.protocol.identifiers import Address, BlockNumber, EpochNumber, RequestId, TokenAmount
from node.protocol.observations import check_observations
from node.protocol.pricing import tokens_commitment
from node.protocol.records import EpochGroup, GroupMember, Receipt, SignedReceipt
from node.protocol.schedules import ParameterSchedule
from node.services.observing import SAMPLES_MIN, Observer
from node.services.speeds import SpeedBook
from node.store.books import Books
from node.store.database import Database
from tests.builders import NODE, PARAMETERS, SOME_CID, TINY, account, peer

GROUP = EpochGroup(EpochNumber(1), tuple(GroupMember(account(n), peer(n), 1, ()) for n in (1, 2, 3)), ())
RECEIPT = Receipt(
    request_id=RequestId(bytes(32)),
    epoch=EpochNumber(1),
    model_id=TINY,
    model_cid=SOME_CID,
    payer=account(2),
    executor=account(1),
    node_id=NODE,
    prompt_tokens=30,
    output_tokens=12,
    prompt_commitment=tokens_commitment([1]),
    output_commitment=tokens_commitment([2]),
    draw_commitment=tokens_commitment([3]),
    is_verifiable=True,
    seeded_by_user=False,
    at=1_700_000_000,
    price=TokenAmount(5),
)


class StubChain:
    account = account(1)
    parameters = PARAMETERS
    schedule = ParameterSchedule(PARAMETERS)

    def __init__(self) -> None:
        self.head = Head(BlockNumber(PARAMETERS.epoch_blocks), BlockNumber(PARAMETERS.epoch_blocks))

    def stand_at(self, offset: int) -> None:
        block = BlockNumber(PARAMETERS.epoch_blocks + offset)
        self.head = Head(block, block)


class StubEpochs:
    def group(self) -> EpochGroup:
        return GROUP


class StubPresence:
    def __init__(self) -> None:
        self.here: set[Address] = set()

    def present(self) -> dict[Address, object]:
        return dict.fromkeys(self.here)


class Scene:
    def __init__(self) -> None:
        self.chain: Any = StubChain()
        self.presence: Any = StubPresence()
        self.store = Books(Database(":memory:"), account(1))
        self.speeds = SpeedBook()
        epochs: Any = StubEpochs()
        self.observer = Observer(self.chain, epochs, self.presence, self.store, self.speeds.take_measures)

    def look(self, times: int, *numbers: int) -> None:
        self.presence.here = {account(number) for number in numbers}
        for _ in range(times):
            self.observer.look()

    def serve(self, number: int, executor: int = 1) -> None:
        receipt = replace(RECEIPT, request_id=RequestId(number.to_bytes(32)), executor=account(executor))
        self.store.save_receipt(SignedReceipt(receipt, b"", b"signed"))


def test_a_member_is_seen_for_the_part_of_the_samples_in_which_it_was_present() -> None:
    scene = Scene()
    scene.look(30, 1, 2, 3)
    scene.look(10, 1, 2)
    observed = scene.observer.take()
    check_observations(observed)
    assert {sighting.participant: sighting.per_mille for sighting in observed.sightings} == {
        account(2): 1000,
        account(3): 750,
    }
    assert scene.observer.take().sightings == ()


def test_a_node_that_is_cut_off_accuses_nobody() -> None:
    scene = Scene()
    scene.look(100, 1)
    assert scene.observer.take().sightings == ()
    scene.look(SAMPLES_MIN - 1, 2)
    assert scene.observer.take().sightings == ()


def test_tokens_served_are_counted_once_by_the_slot_in_which_they_were() -> None:
    scene = Scene()
    scene.serve(1)  # before this daemon began: the last bundle has it
    scene.look(1, 2)
    scene.serve(2)
    scene.serve(3)
    scene.serve(4, executor=2)  # an answer that this node got
    scene.look(1, 2)
    scene.chain.stand_at(PARAMETERS.generate_offset)
    scene.serve(5)
    (served,) = scene.observer.take().served
    assert (served.model_id, served.slot_tokens) == (TINY, (84, 42))
    assert scene.observer.take().served == ()


def test_more_receipts_than_a_page_are_all_counted() -> None:
    scene = Scene()
    scene.look(1, 2)
    for number in range(1, 1203):
        scene.serve(number)
    assert scene.observer.take().served[0].slot_tokens == (1202 * 42, 0)


def test_what_a_gateway_measured_is_told_as_medians_and_forgotten() -> None:
    scene = Scene()
    for number, seconds in enumerate((0.1, 0.3, 0.2)):
        scene.speeds.add_first(account(3), TINY, seconds, float(number))
        scene.speeds.add_pace(account(3), TINY, seconds / 10, float(number))
    scene.speeds.add_first(account(2), TINY, 1.0, 4.0)
    observed = scene.observer.take()
    check_observations(observed)
    assert set(observed.measures) == {
        SpeedMeasure(account(3), TINY, 3, 200, 20_000),
        SpeedMeasure(account(2), TINY, 1, 1000, 0),
    }
    assert scene.observer.take().measures == ()
    assert scene.speeds.first_seconds(account(3), TINY, 5.0) is not None  # routing keeps what it knew
