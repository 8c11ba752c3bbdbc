"""What the daemon does about alerts for its operator: the control socket's methods over the desk and the webhook."""

from node.alerts.desk import AlertDesk
from node.alerts.webhook import DeliveryError, Webhook
from node.control.alert_views import AlertsView, AlertTestView, AlertView
from node.control.jsonrpc import ErrorCode, RpcError


class DaemonAlertOperations:
    """Implements node.control.alert_methods.AlertOperations. `webhook` is None where there is none."""

    def __init__(self, desk: AlertDesk, webhook: Webhook | None) -> None:
        self._desk = desk
        self._webhook = webhook

    async def alerts(self) -> AlertsView:
        """All trouble there is now."""
        webhook = self._webhook
        return AlertsView(
            alerts=[
                AlertView(
                    kind=alert.kind.value,
                    severity=alert.severity.value,
                    subject=alert.subject,
                    message=alert.message,
                    remedy=alert.remedy,
                    since=since,
                )
                for alert, since in self._desk.present()
            ],
            webhook=None if webhook is None else webhook.host,
            kinds=sorted(kind.value for kind in self._desk.kinds),
            delivered=0 if webhook is None else webhook.delivered,
            failed=0 if webhook is None else webhook.failed,
            dropped=self._desk.dropped,
        )

    async def test(self) -> AlertTestView:
        """Send a test notice, once."""
        webhook = self._webhook
        if webhook is None:
            raise RpcError(ErrorCode.REFUSED, "there is no webhook", "Set [alerts] webhook_url and restart the daemon.")
        try:
            await webhook.send(self._desk.make_test())
        except DeliveryError as error:
            return AlertTestView(webhook=webhook.host, delivered=False, reason=str(error))
        return AlertTestView(webhook=webhook.host, delivered=True, reason="")
