"""`quern calibrate` with real vLLM: a machine is equal to itself, and the record says so as the registry takes it."""

import json
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from node.calibration.bands import DISTANCE_MICRO_LEAST, MARGIN_MICRO_LEAST, POC_DISTANCE_LEAST
from node.calibration.reference import reference_from_json
from node.cli.main import quern
from node.protocol.calibration import Calibration, calibration_bytes, parse_calibration
from node.protocol.json_records import from_json_value
from tests.integration.engine.shared import MODEL, SharedServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


async def calibrate(socket: Path, *words: str) -> Result:
    place = ("--url", f"unix:{socket}", "--hardware", "4x Test Machine")
    command = ["calibrate", MODEL.model_id, *words, *place]
    return await trio.to_thread.run_sync(lambda: CliRunner().invoke(quern, command, catch_exceptions=False))


async def test_a_machine_is_calibrated_against_its_own_reference(shared_server: SharedServer, tmp_path: Path) -> None:
    reference, record = tmp_path / "reference.json", tmp_path / "record.json"
    async with shared_server.joined(tmp_path) as engine:
        assert engine.endpoint is not None
        socket = engine.endpoint.socket
        assert socket is not None
        amount = ("--nonces", "128", "--answers", "6", "--tokens", "48", "--vocabulary", str(engine.vocabulary_size))
        made = await calibrate(socket, "--reference", str(reference), *amount)
        assert made.exit_code == 0, made.output
        found = reference_from_json(reference.read_text())
        assert len(found.vectors) == 128
        assert found.hardware == "4x test machine"
        assert sum(len(answer.output_ids) for answer in found.answers) > 6 * 8

        compared = await calibrate(
            socket, "--against", str(reference), "--record", str(record), "--for-the-rest", "--json"
        )
        assert compared.exit_code == 0, compared.output
        figures = json.loads(compared.stdout)["measured"]
        assert figures["distance_largest"] == 0
        assert figures["tokens_that_differ"] == 0
        assert figures["winners_known"] is True
        assert figures["logprob_distance_mean"] == pytest.approx(
            0, abs=1e-5
        )  # decode against prefill: equal to the bit

    written = from_json_value(Calibration, json.loads(record.read_text()))
    assert parse_calibration(calibration_bytes(written)) == written
    assert [band.hardware for band in written.bands] == ["", "4x test machine"]
    assert all(band.knows_winners for band in written.bands)
    band = written.bands[1]
    assert band.poc_distance_max == POC_DISTANCE_LEAST
    assert band.margin_micro_mean_max == MARGIN_MICRO_LEAST
    assert band.distance_micro_mean_max == DISTANCE_MICRO_LEAST
