"""The control socket's method about calibration: which engine is measured."""

from typing import Protocol

from pydantic import Field

from node.control.calibration_views import CalibrationPlaceView
from node.control.methods import Emit, Method, Params
from node.control.views import View


class CalibrationPlaceParams(Params):
    """Which model, and on which ML node."""

    model_id: str = Field(min_length=1, max_length=64)
    node_id: str | None = Field(default=None, max_length=32)
    """Without it, the first that has the model ready."""


class CalibrationOperations(Protocol):
    """What the daemon tells of its engines. Methods raise RpcError for what can be acted on."""

    async def place(self, params: CalibrationPlaceParams) -> CalibrationPlaceView:
        """Return an ML node that has a model ready."""


def calibration_method_table(operations: CalibrationOperations) -> dict[str, Method]:
    """Return all methods by name."""

    async def place(params: CalibrationPlaceParams, _emit: Emit) -> View:
        return await operations.place(params)

    return {"calibration_place": Method(CalibrationPlaceParams, place)}
