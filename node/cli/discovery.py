"""`quern network`: how this node finds and is found."""

import time

import click

from node.cli.calls import call_daemon
from node.cli.options import Target, target_options
from node.cli.render import duration, print_facts, print_json, print_table
from node.control.discovery_views import FoundProvidersView, KnownView, NetworkView


@click.group(invoke_without_command=True)
@target_options
def network(target: Target) -> None:
    """Show whether peers reach this node, and how it finds them.

    The addresses it tells its peers with where each comes from, what peers found that tried to dial it, relays, the
    router's port, the DHT. `quern doctor` says what to do about it.

    \b
    Examples:
      quern network
      quern network known
      quern network providers bafybeig…
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    view = call_daemon(target, "network_status", NetworkView)
    if target.as_json:
        print_json(view)
        return
    print_facts(
        [
            ("peer id", view.peer_id),
            ("reachable", f"{view.reachability}, by {view.reachability_answers} peers that tried to dial back"),
            ("known peers", str(view.known_peers)),
            ("connected", f"{view.connected}, {view.relayed} of them through a relay only"),
            ("DHT", _dht(view)),
            ("relays in use", ", ".join(view.relay_places) or view.relay_error or "none"),
            ("serving as relay", _relaying(view)),
            ("router's port", _mapping(view)),
            ("local network", _local(view)),
            ("holes punched", "off" if view.holes_tried is None else f"{view.holes_punched} of {view.holes_tried}"),
            ("clock", _clock(view)),
        ]
    )
    click.echo()
    print_table(
        ("ADDRESS TOLD TO PEERS", "WHERE IT COMES FROM"),
        [(each.address, each.origin) for each in view.addresses],
        empty="no address is told to peers",
    )


@network.command()
@target_options
def known(target: Target) -> None:
    """List the peers this node knows, those it would dial first first.

    \b
    Example:
      quern network known --json | jq '.addresses | length'
    """
    view = call_daemon(target, "network_known", KnownView)
    if target.as_json:
        print_json(view)
        return
    now = int(time.time())
    print_table(
        ("ADDRESS", "LEARNED BY", "REACHED", "TIMES", "FAILED SINCE"),
        [
            (
                each.address,
                each.origin,
                f"{duration(now - each.reached_at)} ago" if each.reached_at else "never",
                str(each.successes),
                str(each.failures),
            )
            for each in view.addresses
        ],
        empty="no peers are known; set [p2p] bootstrap, or join one now with `quern connect ADDRESS`",
    )


@network.command()
@click.argument("cid")
@target_options
def providers(target: Target, cid: str) -> None:
    """Search the DHT for peers that say they provide a content.

    \b
    Example:
      quern network providers bafybeig…
    """
    view = call_daemon(target, "network_providers", FoundProvidersView, {"cid": cid})
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("PEER", "ADDRESSES"),
        [(each.peer_id, "\n".join(each.addresses) or "–") for each in view.providers],
        empty="nobody is known to provide it",
    )


def _dht(view: NetworkView) -> str:
    if view.dht is None:
        return "off"
    part = "answers others" if view.dht.serving else "only asks"
    return f"{view.dht.peers} peers; {part}; {view.dht.announced} of {view.dht.provided} own contents announced"


def _relaying(view: NetworkView) -> str:
    if view.relay_reservations is None:
        return "no"
    return f"{view.relay_reservations} places, {view.relay_circuits} connections"


def _mapping(view: NetworkView) -> str:
    if view.mapping_error is None:
        return "off"
    port = "none" if view.mapped_port is None else str(view.mapped_port)
    return f"{port} ({view.mapping_error})" if view.mapping_error else port


def _local(view: NetworkView) -> str:
    if view.local_error is None:
        return "off"
    return view.local_error or f"{view.local_peers} peers found"


def _clock(view: NetworkView) -> str:
    if view.clock_skew_seconds is None:
        return "no participant was heard yet"
    return f"{abs(view.clock_skew_seconds):.0f} s {'behind' if view.clock_skew_seconds > 0 else 'ahead of'} others"
