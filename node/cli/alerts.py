"""`quern alerts`: what needs a hand now, and whether telling it works."""

import click

from node.cli.calls import call_daemon
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import listed, print_facts, print_json, print_table
from node.control.alert_views import AlertsView, AlertTestView
from node.dates import date_in_words


@click.group()
def alerts() -> None:
    """Show what needs a hand, and test the webhook.

    Alerts are set up in [alerts] of the settings.

    \b
    Examples:
      quern alerts list
      quern alerts test
    """


@alerts.command("list")
@target_options
def list_alerts(target: Target) -> None:
    """Show what is wrong now, and what to do.

    \b
    Examples:
      quern alerts list
      quern alerts list --json | jq '.alerts | length'
    """
    view = call_daemon(target, "alerts", AlertsView)
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("SINCE", "KIND", "WHAT", "WHAT TO DO"),
        [
            (date_in_words(alert.since), f"{alert.kind} ({alert.severity})", alert.message, alert.remedy)
            for alert in view.alerts
        ],
        empty="nothing is wrong",
    )
    click.echo()
    print_facts(
        [
            ("webhook", view.webhook or "none"),
            ("told of", listed(view.kinds)),
            ("notices", f"{view.delivered} delivered, {view.failed} given up, {view.dropped} dropped"),
        ]
    )


@alerts.command("test")
@target_options
def test_alerts(target: Target) -> None:
    """Send a test notice to the webhook and say whether it arrived.

    \b
    Example:
      quern alerts test
    """
    view = call_daemon(target, "alerts_test", AlertTestView)
    if target.as_json:
        print_json(view)
    if not view.delivered:
        raise CommandFailed(f"the notice did not arrive: {view.reason}", "See [alerts] webhook_url.")
    if not target.as_json:
        click.echo(f"{view.webhook} took the notice")
