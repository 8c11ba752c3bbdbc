"""Stages: every block lies in exactly one, and they follow one another without gaps."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.identifiers import BlockNumber
from node.protocol.records import EpochParameters
from node.protocol.stages import BeforeGenesisError, Stage, first_block_of, stage_at
from tests.builders import PARAMETERS

OFFSETS = st.lists(st.integers(1, 500), min_size=7, max_size=7, unique=True).map(sorted)


def parameters(offsets: list[int], genesis: int) -> EpochParameters:
    names = ("generate", "exchange", "validate", "vote_exchange", "form", "load")
    fields = {f"{name}_offset": offset for name, offset in zip(names, offsets, strict=False)}
    return replace(PARAMETERS, genesis_block=BlockNumber(genesis), epoch_blocks=offsets[-1], **fields)


@given(OFFSETS, st.integers(0, 10**9), st.integers(0, 10**6))
def test_a_block_lies_in_its_stage(offsets: list[int], genesis: int, after: int) -> None:
    given_parameters = parameters(offsets, genesis)
    position = stage_at(genesis + after, given_parameters)
    assert position.first_block <= genesis + after < position.next_block
    assert position.first_block == first_block_of(position.epoch, position.stage, given_parameters)
    following = stage_at(position.next_block, given_parameters)
    assert following.first_block == position.next_block
    assert following.stage == (position.stage + 1) % len(Stage)
    assert following.epoch == position.epoch + (position.stage is Stage.LOAD)


def test_before_genesis_there_is_no_stage() -> None:
    with pytest.raises(BeforeGenesisError):
        stage_at(4, replace(PARAMETERS, genesis_block=BlockNumber(5)))


@pytest.mark.parametrize(
    "change",
    [
        {"generate_offset": 0},
        {"form_offset": 34},
        {"epoch_blocks": 48},
        {"poc_reject_mismatches": 9},
        {"halving_epochs": 0},
    ],
)
def test_impossible_parameters_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        replace(PARAMETERS, **change)
