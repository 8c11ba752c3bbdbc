"""The control socket's methods about alerts."""

from typing import Protocol

from node.control.alert_views import AlertsView, AlertTestView
from node.control.methods import Emit, Method, NoParams
from node.control.views import View


class AlertOperations(Protocol):
    """What the daemon tells of alerts. Methods raise RpcError for what can be acted on."""

    async def alerts(self) -> AlertsView:
        """Return the trouble there is now."""

    async def test(self) -> AlertTestView:
        """Send a test notice and say how it fared."""


def alert_method_table(operations: AlertOperations) -> dict[str, Method]:
    """Return all methods by name."""

    async def alerts(_params: NoParams, _emit: Emit) -> View:
        return await operations.alerts()

    async def test(_params: NoParams, _emit: Emit) -> View:
        return await operations.test()

    return {"alerts": Method(NoParams, alerts), "alerts_test": Method(NoParams, test)}
