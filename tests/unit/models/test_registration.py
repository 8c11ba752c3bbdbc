"""Registering several models: a refusal of one stops neither the others nor the truth about itself."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import trio

from node.models.preparation import PreparedUpload
from node.models.publish import ModelDescription
from node.models.registration import Registration, register_models
from node.ports import ActionOutcome, ActionStatus
from node.protocol.actions import ChainAction, RegisterModel, SetModelSpec, UpdateModel
from node.protocol.identifiers import Cid, Hash32, ModelId
from node.protocol.records import ModelRecord

FIRST, SECOND = Cid("bafy-first"), Cid("bafy-second")
OWNER = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"


class Registry:
    """As much of the chain port as registering uses; each action takes effect when its outcome is asked for."""

    def __init__(self, *, refuse: Callable[[ChainAction], bool] = lambda action: False) -> None:
        self.state = SimpleNamespace(models={})
        self.sent: list[ChainAction] = []
        self._refuse = refuse
        self._open: dict[str, ChainAction] = {}
        self._ended: dict[str, ActionOutcome] = {}

    async def submit(self, key: str, action: ChainAction) -> None:
        await trio.lowlevel.checkpoint()
        if key not in self._open and key not in self._ended:
            self._open[key] = action
            self.sent.append(action)

    async def outcome(self, key: str) -> ActionOutcome:
        await trio.lowlevel.checkpoint()
        if key in self._open:
            action = self._open.pop(key)
            if self._refuse(action):
                self._ended[key] = ActionOutcome(ActionStatus.FAILED, None, 0, "SomeReason")
            else:
                self._apply(action)
                self._ended[key] = ActionOutcome(ActionStatus.DONE, Hash32(bytes(32)), 21_000, "")
        return self._ended[key]

    def _apply(self, action: ChainAction) -> None:
        models = self.state.models
        match action:
            case RegisterModel():
                models[action.model_id] = record(action)
            case SetModelSpec():
                models[action.model_id] = replace(models[action.model_id], vram_mib=action.vram_mib)
            case UpdateModel(model_id, cid):
                models[model_id] = replace(models[model_id], cid=cid, version=models[model_id].version + 1)


def record(action: RegisterModel) -> ModelRecord:
    values = {name: getattr(action, name) for name in RegisterModel.__slots__}
    return ModelRecord(**{**values, "active": True, "version": 1, "proposer": OWNER})


def upload(model_id: str, cid: Cid = FIRST, *, vram_mib: int = 0, name: str = "x") -> PreparedUpload:
    return PreparedUpload(ModelDescription(ModelId(model_id), name, "", "", "", (), vram_mib, 1, 1, 512, 0), cid)


async def registered(
    chain: Registry, *uploads: PreparedUpload, unfinished: tuple[str, ...] = (), told: list[str] | None = None
) -> tuple[Registration, ...]:
    with trio.fail_after(10):
        return await register_models(chain, uploads, unfinished, (told if told is not None else []).append)


async def test_models_are_registered_in_the_order_of_the_manifest() -> None:
    chain = Registry()
    names = [f"model-{number}" for number in (3, 1, 2, 9, 5)]
    results = await registered(chain, *(upload(name) for name in names))
    assert [action.model_id for action in chain.sent] == names
    assert [result.model_id for result in results] == names
    assert {(result.version, result.done, result.gas_used) for result in results} == {(1, ("registered",), 21_000)}


async def test_a_refused_model_does_not_stop_the_others_and_is_told() -> None:
    chain = Registry(refuse=lambda action: action.model_id == "bad")
    good, bad, last = await registered(chain, upload("good"), upload("bad"), upload("last"))
    assert (good.done, last.done) == (("registered",), ("registered",))
    assert (bad.done, bad.version, bad.refusal) == ((), 0, "to register it: SomeReason")


async def test_a_new_version_is_not_sent_where_its_specification_was_refused() -> None:
    chain = Registry(refuse=lambda action: isinstance(action, SetModelSpec))
    await registered(chain, upload("tiny"))
    (result,) = await registered(chain, upload("tiny", SECOND, vram_mib=7))
    assert (result.done, result.version, result.refusal) == ((), 1, "to set its specification: SomeReason")
    assert not any(isinstance(action, UpdateModel) for action in chain.sent)


async def test_a_refusal_is_not_remembered_against_the_next_run() -> None:
    refusing = True
    chain = Registry(refuse=lambda action: refusing)
    (result,) = await registered(chain, upload("tiny"))
    assert result.refusal
    refusing = False
    (result,) = await registered(chain, upload("tiny"))
    assert result.done == ("registered",)


async def test_what_an_earlier_run_left_is_awaited_before_anything_is_decided() -> None:
    chain = Registry()
    await registered(chain, upload("tiny"))
    await chain.submit("left", UpdateModel(ModelId("tiny"), SECOND))
    (result,) = await registered(chain, upload("tiny", SECOND), unfinished=("left",))
    assert (result.version, result.done) == (2, ())
    assert sum(isinstance(action, UpdateModel) for action in chain.sent) == 1


async def test_the_owner_reads_what_changes_and_what_cannot() -> None:
    chain, told = Registry(), list[str]()
    await registered(chain, upload("tiny"))
    (result,) = await registered(chain, upload("tiny", SECOND, vram_mib=7, name="Other"), told=told)
    assert (result.version, result.done, result.gas_used) == (2, ("specification set", "new version"), 42_000)
    assert "tiny: vram_mib: 0 becomes 7" in told
    assert any("its name stays 'x'" in line for line in told)
