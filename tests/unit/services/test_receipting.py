"""What a payer lets its executor say of an answer."""

from dataclasses import replace

import pytest

from node.protocol.identifiers import EpochNumber
from node.services.receipting import EPOCHS_APART_MAX, is_near_epoch
from tests.unit.protocol.test_pricing import RECEIPT

NOW = 7


@pytest.mark.parametrize("apart", range(-3, 4))
def test_a_receipt_s_epoch_is_its_payer_s_or_one_beside_it(apart: int) -> None:
    """By it follows which books must have it: a receipt of long ago would be due in none."""
    stated = replace(RECEIPT, epoch=EpochNumber(NOW + apart))
    assert is_near_epoch(stated, EpochNumber(NOW)) is (abs(apart) <= EPOCHS_APART_MAX)
