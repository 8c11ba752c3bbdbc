"""`quern peers`: who is connected, and who is not spoken to."""

import time

import click

from node.cli.calls import call_daemon
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import duration, listed, print_json, print_table
from node.control.peer_views import BannedView, BansView, PardonView
from node.control.views import PeersView
from node.dates import date_in_words


@click.group(invoke_without_command=True)
@target_options
def peers(target: Target) -> None:
    """List the connected peers, or deal with those that misbehave.

    With the account, models and load of their presence records.

    \b
    Examples:
      quern peers
      quern peers bans
      quern peers ban 12D3KooW… --hours 24 --reason "sells answers it does not have"
      quern peers pardon 12D3KooW…
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    view = call_daemon(target, "peers", PeersView)
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("PEER", "ADDRESS", "LATENCY", "ACCOUNT", "MODELS", "LOAD"),
        [
            (
                peer.peer_id,
                peer.address,
                f"{peer.latency_ms} ms" if peer.latency_ms is not None else "–",
                peer.account or "–",
                listed(peer.models),
                str(peer.load) if peer.load is not None else "–",
            )
            for peer in view.peers
        ],
        empty="no peers; set [p2p] bootstrap, or join one now with `quern connect ADDRESS`",
    )


@peers.command()
@target_options
def bans(target: Target) -> None:
    """List who is not spoken to, until when and why.

    Peers and addresses are banned by what they do; each ban ends, and each lasts twice as long as the one before.

    \b
    Examples:
      quern peers bans
      quern peers bans --json | jq '.bans[].peer'
    """
    view = call_daemon(target, "peer_bans", BansView)
    if target.as_json:
        print_json(view)
        return
    now = int(time.time())
    print_table(
        ("PEER OR ADDRESS", "REASON", "SINCE", "FOR ANOTHER", "TIMES"),
        [
            (ban.peer, ban.reason, date_in_words(ban.since), duration(max(0, ban.until - now)), str(ban.count))
            for ban in view.bans
        ],
        empty="nobody is banned",
    )
    turned_away = {reason: count for reason, count in view.refused_connections.items() if count}
    if turned_away:
        click.echo()
        print_table(
            ("CONNECTIONS TURNED AWAY", "BECAUSE"),
            [(str(count), reason) for reason, count in turned_away.items()],
            empty="",
        )


@peers.command()
@click.argument("peer")
@click.option("--hours", type=float, default=24, show_default=True, help="How long.")
@click.option("--reason", default="by the operator", show_default=True, help="What the list of bans shows.")
@target_options
def ban(target: Target, *, peer: str, hours: float, reason: str) -> None:
    """Do not speak to PEER (a peer id, or an IP address) for a time; ends its connections now.

    \b
    Example:
      quern peers ban 12D3KooW… --hours 72 --reason "floods us"
    """
    view = call_daemon(target, "peer_ban", BannedView, {"peer": peer, "hours": hours, "reason": reason})
    if target.as_json:
        print_json(view)
    else:
        click.echo(f"{view.ban.peer} is banned until {date_in_words(view.ban.until)}")


@peers.command()
@click.argument("peer")
@target_options
def pardon(target: Target, *, peer: str) -> None:
    """Lift the ban of PEER, and forget its offences.

    \b
    Example:
      quern peers pardon 12D3KooW…
    """
    view = call_daemon(target, "peer_pardon", PardonView, {"peer": peer})
    if target.as_json:
        print_json(view)
    elif view.was_banned:
        click.echo(f"{view.peer} is pardoned")
    else:
        raise CommandFailed(f"{view.peer} was not banned", "`quern peers bans` lists who is.")
