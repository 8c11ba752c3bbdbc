"""What publishing means on chain, case by case: nothing is sent twice, and nothing goes out half described."""

from dataclasses import fields, replace

import pytest

from node.models.publish import ModelDescription, changed_fields, fixed_differences, publication
from node.protocol.actions import ZERO_ADDRESS, RegisterModel, SetModelSpec, UpdateModel
from node.protocol.identifiers import Address, Cid, ModelId
from node.protocol.records import ModelRecord

TINY = ModelId("tiny")
FIRST, SECOND = Cid("bafy-first"), Cid("bafy-second")
PROPOSER = Address("0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A")
SPEC = SetModelSpec(
    TINY, "team/tiny", "c" * 40, ("--max-model-len", "512"), 1, 2, 3, 4, 5, "fp8", "fp8_e5m2", True, True
)
SAID = {field.name: getattr(SPEC, field.name) for field in fields(SPEC) if field.name != "proposer"}
WANTED = ModelDescription(name="Tiny", description="small", **SAID)
KNOWN = ModelRecord(cid=FIRST, name="Tiny", description="small", active=True, version=1, proposer=PROPOSER, **SAID)


def test_an_unknown_model_is_registered_with_all_it_says() -> None:
    (action,) = publication(WANTED, FIRST, None)
    assert isinstance(action, RegisterModel)
    assert (action.model_id, action.cid, action.name, action.description) == (TINY, FIRST, "Tiny", "small")
    assert {name: getattr(action, name) for name in SAID} == SAID
    assert action.proposer == ZERO_ADDRESS


def test_what_is_on_chain_already_sends_nothing() -> None:
    assert publication(WANTED, FIRST, KNOWN) == ()
    assert publication(replace(WANTED, proposer=PROPOSER), FIRST, KNOWN) == ()


def test_another_cid_is_a_new_version_and_nothing_else() -> None:
    assert publication(WANTED, SECOND, KNOWN) == (UpdateModel(TINY, SECOND),)


def test_a_deactivated_model_that_is_published_again_becomes_active() -> None:
    assert publication(WANTED, FIRST, replace(KNOWN, active=False)) == (UpdateModel(TINY, FIRST),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hf_repo", "other"),
        ("hf_commit", "d" * 40),
        ("model_args", ()),
        ("vram_mib", 9),
        ("throughput_per_nonce", 9),
        ("units_of_compute_per_token", 9),
        ("context_length", 9),
        ("poc_distance_max", 9),
        ("quantization", ""),
        ("kv_cache_quantization", ""),
        ("gated", False),
        ("encrypted", False),
        ("proposer", Address("0x" + "1" * 40)),
    ],
)
def test_any_change_of_the_specification_alone_is_set_without_a_new_version(name: str, value: object) -> None:
    wanted = replace(WANTED, **{name: value})
    (action,) = publication(wanted, FIRST, KNOWN)
    assert isinstance(action, SetModelSpec)
    assert getattr(action, name) == value
    (change,) = changed_fields(wanted, KNOWN)
    assert change.startswith(f"{name}: ")


def test_a_new_version_goes_out_only_after_what_is_said_of_it() -> None:
    actions = publication(replace(WANTED, units_of_compute_per_token=9), SECOND, KNOWN)
    assert [type(action) for action in actions] == [SetModelSpec, UpdateModel]


def test_names_which_nothing_can_change_are_told_apart() -> None:
    wanted = replace(WANTED, name="Other")
    assert publication(wanted, FIRST, KNOWN) == ()
    assert fixed_differences(wanted, KNOWN) == ("name",)
