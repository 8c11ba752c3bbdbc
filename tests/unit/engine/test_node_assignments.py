"""What an ML node runs in each stage: the epoch's snapshot while the epoch lasts, the next version from LOAD on."""

from dataclasses import replace

import pytest

from node.node_assignments import NodeAssignment, update_node_with_epoch_data
from node.protocol.identifiers import Cid
from node.protocol.records import ModelRecord
from node.protocol.stages import Stage
from tests.builders import model

OLD = model()
NEW = replace(OLD, cid=Cid("bafy-new"), version=2)


def assigned(
    stage: Stage,
    *,
    epoch: ModelRecord | None = OLD,
    following: ModelRecord | None = None,
    registry: ModelRecord | None = OLD,
    beside: bool = False,
    registered: bool = True,
) -> NodeAssignment:
    return update_node_with_epoch_data(
        stage,
        epoch_model=epoch,
        next_epoch_model=following,
        registry_model=registry,
        loads_beside=beside,
        registered=registered,
    )


@pytest.mark.parametrize("stage", Stage)
def test_nothing_changes_while_nothing_new_is_registered(stage: Stage) -> None:
    assert assigned(stage) == NodeAssignment(OLD, mining=stage is Stage.GENERATE)
    assert assigned(stage, registered=False) == NodeAssignment(OLD)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.LOAD])
def test_a_new_version_is_fetched_at_once_and_served_only_by_the_next_group(stage: Stage) -> None:
    found = assigned(stage, registry=NEW)
    assert (found.model, found.coming, found.load_coming) == (OLD, NEW, False)


def test_in_load_the_next_version_takes_the_place_of_the_old_or_is_loaded_beside_it() -> None:
    assert assigned(Stage.LOAD, registry=NEW) == NodeAssignment(NEW)
    assert assigned(Stage.LOAD, registry=NEW, beside=True) == NodeAssignment(OLD, NEW, load_coming=True)
    assert assigned(Stage.SERVE, epoch=NEW, registry=NEW, beside=True) == NodeAssignment(NEW)


def test_what_the_next_group_froze_counts_more_than_what_was_registered_after_it() -> None:
    newest = replace(OLD, cid=Cid("bafy-newest"), version=3)
    assert assigned(Stage.LOAD, following=NEW, registry=newest).model == NEW


def test_a_model_that_was_deactivated_is_served_until_its_epoch_ends() -> None:
    assert assigned(Stage.SERVE, registry=None) == NodeAssignment(OLD)
    assert assigned(Stage.LOAD, registry=None) == NodeAssignment(OLD)
    assert assigned(Stage.SERVE, epoch=None, registry=None) == NodeAssignment(None)


def test_a_node_that_no_group_has_yet_follows_the_registry() -> None:
    assert assigned(Stage.GENERATE, epoch=None, registry=NEW) == NodeAssignment(NEW, mining=True)


def test_new_arguments_need_another_server_and_a_new_price_does_not() -> None:
    cheaper = replace(OLD, units_of_compute_per_token=1, version=2, name="other")
    assert assigned(Stage.SERVE, registry=cheaper).coming is None
    longer = replace(OLD, model_args=("--max-model-len", "512"))
    assert assigned(Stage.SERVE, registry=longer).coming == longer
