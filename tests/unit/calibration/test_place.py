"""Where `quern calibrate` finds the engine it measures."""

from types import SimpleNamespace
from typing import Any

import pytest

from node.control.calibration_methods import CalibrationPlaceParams
from node.control.jsonrpc import RpcError
from node.operations.calibration import DaemonCalibrationOperations
from tests.builders import TINY, model


@pytest.mark.parametrize(
    ("model_id", "node_id", "said", "remedy"),
    [
        ("nope", None, "the registry has no model nope", "quern models"),
        (TINY, "gpu9", "there is no ML node gpu9 here", "ML nodes: gpu0."),
        (TINY, "gpu0", "ML node gpu0 does not have tiny ready", "quern nodes"),
        (TINY, None, "no ML node here has tiny ready", "quern nodes"),
    ],
)
async def test_what_is_not_there_is_named(model_id: str, node_id: str | None, said: str, remedy: str) -> None:
    chain: Any = SimpleNamespace(state=SimpleNamespace(models={TINY: model()}))
    loading: Any = SimpleNamespace(node_id="gpu0", model_id=None, endpoint=None)
    operations = DaemonCalibrationOperations(chain, [loading])
    with pytest.raises(RpcError) as refused:
        await operations.place(CalibrationPlaceParams(model_id=model_id, node_id=node_id))
    assert said in refused.value.message
    assert remedy in refused.value.remedy
