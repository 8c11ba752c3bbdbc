"""What a user's own engine says of vectors in a receipt's file."""

from dataclasses import replace
from typing import Any, cast

import pytest

from node.protocol.dossiers import Dossier, VectorEvidence
from node.protocol.sketches import sketch_of
from node.protocol.vector_audits import vector_band
from node.protocol.verification import Outcome
from node.services.vector_checks import check_vectors
from tests.builders import account
from tests.unit.protocol.audited_group import BAND
from tests.unit.protocol.test_audit_evidence import vectors_of
from tests.unit.protocol.test_sketches import DIMENSIONS, vector
from tests.unit.services.audit_bench import VectorEngine


@pytest.mark.parametrize(("count", "outcome"), [(0, Outcome.UNCHECKED), (1, Outcome.HOLDS), (5, Outcome.HOLDS)])
async def test_vectors_hold_only_if_there_are_any(count: int, outcome: Outcome) -> None:
    given = VectorEvidence(
        tuple((number, 1) for number in range(count)), DIMENSIONS, b"".join(sketch_of(vector(n)) for n in range(count))
    )
    signed = vectors_of(given, vectors=count).signed
    dossier = Dossier(1, account(1), signed, None, None, given)
    band = vector_band(replace(BAND, poc_distance_max=100_000))
    check = await check_vectors(dossier, cast(Any, VectorEngine()), signed.receipt.model_cid, band)
    assert check.outcome is outcome
