"""The states of a model: only legal steps, whatever comes in whatever order; and the registry keeps to them."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.models.identity import LocalModelId
from node.models.registry import ModelEntry, ModelQuery, ModelRegistry, UnknownModelError, bounded_metadata
from node.models.states import IllegalStepError, ModelEvent, ModelStatus, ModelType, is_legal, next_status
from node.store.database import Database
from node.store.model_tables import FileRow, ModelTables

ID = LocalModelId("custom/model")
OTHER = LocalModelId("huggingface/owner/model")


class Life(RuleBasedStateMachine):
    """A model in the registry beside the state that the rules give it."""

    def __init__(self) -> None:
        super().__init__()
        self.database = Database(":memory:")
        self.registry = ModelRegistry(ModelTables(self.database), lambda: 7)
        self.status: ModelStatus | None = None

    @rule(event=st.sampled_from([event for event in ModelEvent if event is not ModelEvent.REQUESTED]))
    def anything_may_happen(self, event: ModelEvent) -> None:
        try:
            expected = next_status(self.status, event)
        except IllegalStepError:
            with pytest.raises((IllegalStepError, UnknownModelError)):
                self._step(event)
        else:
            self._step(event)
            self.status = expected

    def _step(self, event: ModelEvent) -> None:
        if event is ModelEvent.COMPLETED:
            self.registry.complete(ID, [FileRow("a", 3, "")], {})
        else:
            self.registry.step(ID, event, reason="why")

    @rule(request=st.sampled_from(["one", "two"]))
    def it_is_asked_for(self, request: str) -> None:
        if is_legal(self.status, ModelEvent.REQUESTED):
            self.registry.add(ID, ModelType.OTHER, Path("/m"), request)
            self.status = ModelStatus.PENDING
        else:
            with pytest.raises(IllegalStepError):
                self.registry.add(ID, ModelType.OTHER, Path("/m"), request)

    @precondition(lambda self: self.status not in (None, ModelStatus.DELETED))
    @rule(pinned=st.booleans())
    def it_is_pinned(self, pinned: bool) -> None:
        assert self.registry.pin(ID, pinned=pinned).pinned is pinned

    @invariant()
    def the_registry_agrees(self) -> None:
        entry = self.registry.find(ID)
        assert (None if entry is None else entry.status) == self.status
        if entry is not None and self.status is ModelStatus.AVAILABLE:
            assert entry.size_bytes == 3 and entry.download_date is not None and not entry.reason
        if self.status in (None, ModelStatus.PENDING, ModelStatus.DOWNLOADING, ModelStatus.DELETED):
            assert self.registry.files(ID) == ()  # files are of what was available, and of nothing else

    def teardown(self) -> None:
        self.database.close()


Life.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLife = Life.TestCase


def test_only_a_download_makes_a_model_available() -> None:
    leading = {
        before for before in [None, *ModelStatus] for event in ModelEvent if is_legal(before, event)
        and next_status(before, event) is ModelStatus.AVAILABLE
    }  # fmt: skip
    assert leading == {ModelStatus.DOWNLOADING}


def test_another_try_of_the_same_keeps_the_version_it_was_resolved_to() -> None:
    registry = ModelRegistry(ModelTables(Database(":memory:")), lambda: 7)
    registry.add(ID, ModelType.OTHER, Path("/m"), "one")
    registry.step(ID, ModelEvent.STARTED)
    registry.resolved(ID, "v1", 10, ModelType.OTHER, {})
    registry.step(ID, ModelEvent.FAILED, reason="cut off")
    assert registry.add(ID, ModelType.OTHER, Path("/m"), "one").version == "v1"
    registry.step(ID, ModelEvent.FAILED)
    assert registry.add(ID, ModelType.OTHER, Path("/m"), "another").version == ""


def test_entries_are_found_by_type_state_and_part_of_the_id() -> None:
    registry = ModelRegistry(ModelTables(Database(":memory:")), lambda: 7)
    registry.add(ID, ModelType.EMBEDDING, Path("/a"), "")
    registry.add(OTHER, ModelType.OTHER, Path("/b"), "")
    registry.step(OTHER, ModelEvent.FAILED, reason="x")
    found = lambda query: [entry.model_id for entry in registry.query(query)]  # noqa: E731
    assert found(None) == [ID, OTHER]
    assert found(ModelQuery(model_type=ModelType.EMBEDDING)) == [ID]
    assert found(ModelQuery(status=ModelStatus.ERROR)) == [OTHER]
    assert found(ModelQuery(text="OWNER")) == [OTHER]
    registry.step(OTHER, ModelEvent.REMOVED)
    assert found(None) == [ID]
    assert found(ModelQuery(with_deleted=True)) == [ID, OTHER]
    with pytest.raises(UnknownModelError):
        registry.get(OTHER)


def test_an_entry_comes_back_as_it_was_written() -> None:
    registry = ModelRegistry(ModelTables(Database(":memory:")), lambda: 1_800_000_000)
    registry.add(ID, ModelType.EMBEDDING, Path("/a"), '{"x": 1}')
    registry.step(ID, ModelEvent.STARTED)
    written = registry.complete(ID, [FileRow("a", 3, "00")], {"gated": True, "task": "x", "layers": 3})
    assert registry.get(ID) == written
    assert isinstance(written, ModelEntry)
    assert replace(written, metadata={}) == replace(registry.get(ID), metadata={})


def test_metadata_of_strangers_is_bounded_and_printable() -> None:
    kept = bounded_metadata({"title": "a\x1b[31m\nb", "huge": "x" * 100_000, "small": 1})
    assert kept == {"title": "a [31m b", "small": 1}


def test_a_download_that_begins_anew_knows_nothing_of_the_files_that_were_damaged() -> None:
    """The long way to it is found by chance only, above."""
    registry = ModelRegistry(ModelTables(Database(":memory:")), lambda: 7)
    registry.add(ID, ModelType.OTHER, Path("/m"), "request")
    registry.step(ID, ModelEvent.STARTED)
    registry.complete(ID, [FileRow("a", 3, "")], {})
    registry.step(ID, ModelEvent.DAMAGED, reason="a file is gone")
    assert len(registry.files(ID)) == 1
    registry.step(ID, ModelEvent.STARTED)
    assert registry.files(ID) == ()
