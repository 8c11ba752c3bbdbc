"""`quern nodes`: this daemon's ML nodes, how they are and why, and what an operator does with them."""

import click

from node.cli.calls import call_daemon
from node.cli.options import Target, target_options
from node.cli.render import duration, print_facts, print_json, print_table
from node.control.node_views import NodesView, NodeView

RESTART_SECONDS_MAX = 60
"""A server is given ten seconds to end by itself."""


@click.group(invoke_without_command=True)
@target_options
def nodes(target: Target) -> None:
    """Show this daemon's ML nodes, or drain, resume or restart one.

    \b
    Examples:
      quern nodes
      quern nodes --json | jq '.nodes[].state'
      quern nodes drain gpu0
      quern nodes resume gpu0
      quern nodes restart gpu0
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    view = call_daemon(target, "nodes", NodesView)
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("ML NODE", "STATE", "FOR", "MODEL", "ENGINE", "RUNNING", "RESTARTS", "HARDWARE", "SERVER"),
        [
            (
                node.node_id,
                node.state + (f": {node.phase}" if node.phase else ""),
                duration(node.state_seconds),
                node.model_id,
                node.engine or "–",
                str(node.running_requests),
                str(node.restarts),
                node.hardware or "–",
                node.place or "local",
            )
            for node in view.nodes
        ],
        empty="no ML nodes: add an [[engines]] table to quern.toml",
    )
    for node in view.nodes:
        _explain(node)


@nodes.command()
@click.argument("node_id", metavar="NODE")
@target_options
def drain(target: Target, *, node_id: str) -> None:
    """Finish what NODE runs and stop it.

    It takes no new requests and stays stopped, also over restarts of the daemon, until it is resumed. Requests that
    run longer than drain_seconds are cut off; the network goes on with them elsewhere.

    While it is stopped it neither mines nor judges what others mined: `quern epoch` shows when that is due.

    \b
    Example:
      quern nodes drain gpu0
    """
    _act(target, "node_drain", node_id)


@nodes.command()
@click.argument("node_id", metavar="NODE")
@target_options
def resume(target: Target, *, node_id: str) -> None:
    """Have NODE serve again after it was drained.

    \b
    Example:
      quern nodes resume gpu0
    """
    _act(target, "node_resume", node_id)
    if not target.as_json:
        click.echo("It loads its model by itself, which may take minutes: see `quern nodes`.")


@nodes.command()
@click.argument("node_id", metavar="NODE")
@target_options
def restart(target: Target, *, node_id: str) -> None:
    """End the server of NODE and start it anew.

    What runs is cut off: drain it first to spare it. A node that was given up is tried again.

    \b
    Example:
      quern nodes restart gpu0
    """
    _act(target, "node_restart", node_id)


def _act(target: Target, method: str, node_id: str) -> None:
    view = call_daemon(target, method, NodeView, {"node_id": node_id}, deadline_seconds=RESTART_SECONDS_MAX)
    if target.as_json:
        print_json(view)
        return
    running = f", {view.running_requests} requests still run" if view.running_requests else ""
    click.echo(f"{view.node_id} is {view.state}{running}")
    _explain(view)


def _explain(node: NodeView) -> None:
    facts = [("caution", node.caution)]
    if node.why_not_drawn:
        facts += [("not drawn", node.why_not_drawn), ("last error", node.last_error), ("what to do", node.remedy)]
    if any(text for _, text in facts):
        click.echo(f"\n{node.node_id}")
        print_facts([(name, text) for name, text in facts if text])
