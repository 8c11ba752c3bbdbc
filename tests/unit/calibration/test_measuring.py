"""A machine against itself differs by nothing; one that is a little off by a little; a cheat lies outside the band."""

from dataclasses import replace

import pytest

from node.calibration.bands import (
    DISTANCE_MICRO_LEAST,
    MARGIN_MICRO_LEAST,
    POC_DISTANCE_LEAST,
    band_of_measurement,
    widest,
    with_band,
)
from node.calibration.measurement import Measurement, surprise_z_milli
from node.calibration.measuring import Amount, Identity, figures_of, make_reference, measure_against
from node.calibration.reference import Reference, reference_from_json, reference_to_json
from node.protocol.calibration import CALIBRATION_BYTES_MAX, calibration_bytes
from node.protocol.codec import SchemaError
from node.protocol.identifiers import ModelId
from tests.unit.calibration.table_engine import VOCABULARY, TableEngine

MODEL = ModelId("table")
HERE = Identity(MODEL, 3, "vllm", "0.32.0", "nvidia l4", VOCABULARY)
AMOUNT = Amount(nonces=64, answers=8, answer_tokens=48)


def silent(what: str, done: int, total: int) -> None:
    assert 0 < done <= total


async def reference_of(engine: TableEngine) -> Reference:
    there = replace(HERE, hardware="nvidia h200")
    return await make_reference(engine, there, AMOUNT, silent, ("one question", "another"))


async def measured(off: float, *, tells_winners: bool = True) -> Measurement:
    engine = TableEngine(off, tells_winners=tells_winners)
    return await measure_against(engine, HERE, await reference_of(TableEngine()), silent)


async def test_a_machine_against_itself_differs_by_nothing_and_has_the_narrowest_band() -> None:
    found = await measured(0.0)
    assert figures_of(found) == {
        "nonces": 64,
        "distance_largest": 0,
        "answers": 8,
        "tokens": 8 * 48,
        "tokens_that_differ": 0,
        "margin_mean": 0.0,
        "logprob_distance_mean": pytest.approx(0.0, abs=1e-6),
        "winners_known": True,
        "surprise_z_largest": figures_of(found)["surprise_z_largest"],
    }
    assert all(abs(surprise_z_milli(answer)) < 4000 for answer in found.answers)
    band = band_of_measurement(found, "vllm")
    assert band.hardware == "nvidia l4"
    assert band.poc_distance_max == POC_DISTANCE_LEAST
    assert band.margin_micro_mean_max == MARGIN_MICRO_LEAST
    assert band.distance_micro_mean_max == DISTANCE_MICRO_LEAST
    assert band.poc_mismatch_per_million == 69_428  # 64 nonces tell no more: 1 - 0.01^(1/64)


async def test_the_band_holds_what_was_seen_with_room_and_not_a_machine_ten_times_as_far_off() -> None:
    near, far = await measured(0.02), await measured(0.2)
    band = band_of_measurement(near, "vllm")
    assert max(near.distances) * 1.65 < band.poc_distance_max < min(far.distances)
    figures, beyond = figures_of(near), figures_of(far)
    assert figures["logprob_distance_mean"] * 1.3e6 < band.distance_micro_mean_max
    assert beyond["logprob_distance_mean"] * 1e6 > band.distance_micro_mean_max
    assert figures["margin_mean"] * 1e6 < band.margin_micro_mean_max < beyond["margin_mean"] * 1e6


async def test_a_model_without_a_chat_template_is_asked_in_plain_text() -> None:
    plain = await reference_of(TableEngine(chats=False))
    assert plain.answers == (await reference_of(TableEngine())).answers


async def test_a_model_that_makes_vectors_is_measured_by_its_nonces_alone() -> None:
    reference = await make_reference(TableEngine(), HERE, replace(AMOUNT, answers=0), silent)
    found = await measure_against(TableEngine(0.01), HERE, reference, silent)
    band = band_of_measurement(found, "vllm")
    assert found.answers == ()
    assert band.poc_distance_max >= max(found.distances)


async def test_a_reference_survives_its_file_and_is_refused_when_it_was_altered() -> None:
    reference = await reference_of(TableEngine())
    text = reference_to_json(reference)
    assert reference_from_json(text) == reference
    for altered in (
        text[:-40],
        text.replace("quern-calibration-reference/1", "quern-receipts/1"),
        text.replace(f'"vocabulary_size":{VOCABULARY}', '"vocabulary_size":4'),
        text.replace('"model_version":3', '"model_version":-3'),
        text.replace('"vectors":["', '"vectors":["00'),
        text.replace('"hardware":"nvidia h200"', '"hardware":7'),
        "[]",
    ):
        with pytest.raises(SchemaError):
            reference_from_json(altered)


async def test_bands_of_one_class_grow_and_others_stand_beside_them_in_order() -> None:
    narrow = band_of_measurement(await measured(0.01), "vllm")
    wide = band_of_measurement(await measured(0.05), "vllm")
    other = replace(narrow, hardware="amd epyc")
    record = with_band(with_band(with_band(None, MODEL, 3, narrow), MODEL, 3, other), MODEL, 3, wide)
    assert [band.hardware for band in record.bands] == ["amd epyc", "nvidia l4"]
    assert record.bands[1] == wide
    assert record == with_band(record, MODEL, 3, narrow)  # a narrower one changes nothing
    rest = widest(record.bands)
    assert rest is not None
    assert replace(rest, hardware="nvidia l4") == wide
    assert len(calibration_bytes(with_band(record, MODEL, 3, rest))) < CALIBRATION_BYTES_MAX


async def test_a_band_knows_winners_only_if_all_did_of_whom_it_was_made() -> None:
    known = band_of_measurement(await measured(0.3), "vllm")
    unknown = band_of_measurement(await measured(0.3, tells_winners=False), "vllm")
    assert (known.knows_winners, unknown.knows_winners) == (True, False)
    record = with_band(with_band(None, MODEL, 3, known), MODEL, 3, unknown)
    assert not record.bands[0].knows_winners
    other = replace(known, hardware="nvidia h200")
    rest = widest(with_band(record, MODEL, 3, other).bands)
    assert rest is not None
    assert not rest.knows_winners
    rest = widest((known, other))
    assert rest is not None
    assert rest.knows_winners


async def test_a_record_of_another_model_or_version_is_not_mixed_in() -> None:
    band = band_of_measurement(await measured(0.0), "vllm")
    record = with_band(None, MODEL, 3, band)
    with pytest.raises(ValueError, match="version 3, this is table version 4"):
        with_band(record, MODEL, 4, band)
