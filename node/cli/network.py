"""Commands that show how the daemon and its network stand: status, models, epoch, earnings, connect, stop."""

import click

from node.amounts import amount_to_tokens
from node.cli.calls import call_daemon
from node.cli.options import Target, target_options
from node.cli.render import duration, listed, print_facts, print_json, print_table
from node.control.views import (
    ConnectView,
    EarningsView,
    EpochView,
    ModelsView,
    RedeemView,
    StatusView,
    StopView,
)

PLANS_SHOWN_MAX = 10
"""Payers whose vouchers are listed; --json has more."""


@click.command()
@target_options
def status(target: Target) -> None:
    """Show the daemon at a glance.

    Account, chain, epoch, ML nodes, services with their last errors.

    \b
    Examples:
      quern status
      quern status --json | jq .epoch
    """
    view = call_daemon(target, "status", StatusView)
    if target.as_json:
        print_json(view)
        return
    print_facts(
        [
            ("version", view.version),
            ("up for", duration(view.uptime_seconds)),
            ("roles", listed(view.roles)),
            ("account", view.account + ("" if view.registered else "  (not registered as participant)")),
            ("peer id", view.peer_id),
            ("listening on", listed(view.addresses)),
            ("network", f"{view.network_id}, chain {view.chain_id}"),
            ("block", f"{view.head_block}, acting on {view.confirmed_block}"),
            ("epoch", f"{view.epoch}, {view.stage}" if view.epoch is not None else view.stage),
            ("peers", str(view.peers)),
            ("reachable", view.reachability),
            ("answering", f"{view.running_requests} requests"),
            ("user API", view.api_url or "off"),
            ("content", view.content_address or "off"),
        ]
    )
    click.echo()
    print_table(
        ("ML NODE", "MODEL", "STATE"),
        [(engine.node_id, engine.model_id, engine.state) for engine in view.engines],
        empty="no ML nodes",
    )
    click.echo()
    print_table(
        ("SERVICE", "STATE", "RESTARTS", "LAST ERROR"),
        [(item.name, item.state, str(item.restarts), item.last_error or "") for item in view.services],
        empty="no services",
    )


@click.command()
@target_options
def models(target: Target) -> None:
    """List the models of the registry.

    With the price of a token, how many serve it, and what is held and served here.

    \b
    Example:
      quern models
    """
    view = call_daemon(target, "models", ModelsView)
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("MODEL", "VERSION", "STATE", "TOKENS OF QUERN EACH", "EXECUTORS", "CALIBRATED", "HELD", "SERVED BY", "CID"),
        [
            (
                model.model_id,
                str(model.version),
                ("in this epoch" if model.in_epoch else "from the next epoch") if model.active else "inactive",
                amount_to_tokens(int(model.price_per_token)),
                str(model.executors),
                f"{len(model.calibrated)} classes" if model.calibrated else "no",
                "yes" if model.held else "no",
                listed(model.served_by),
                model.cid,
            )
            for model in view.models
        ],
        empty="the registry has no models",
    )


@click.command()
@target_options
def epoch(target: Target) -> None:
    """Show the epoch and this node's duties in it.

    The stage, the blocks left in it, what this node has done, does and will do, and by when; its weight.

    \b
    Example:
      quern epoch
    """
    view = call_daemon(target, "epoch", EpochView)
    if target.as_json:
        print_json(view)
        return
    share = f" of {view.total_weight}" if view.total_weight else ""
    print_facts(
        [
            ("epoch", f"{view.epoch}, blocks {view.epoch_first_block} to {view.epoch_end_block - 1}"),
            ("stage", f"{view.stage}, since block {view.stage_first_block}"),
            ("block", str(view.block)),
            ("next stage", f"{view.next_stage} at block {view.next_stage_block}, in {view.blocks_left} blocks"),
            ("next duty", view.next_duty),
            ("group", f"{view.members} members"),
            ("own weight", f"{view.own_weight}{share}"),
            ("last result", str(view.last_result_epoch) if view.last_result_epoch is not None else "none yet"),
            ("change", "none" if view.change_epoch is None else f"other parameters from epoch {view.change_epoch} on"),
        ]
    )
    click.echo()
    print_table(
        ("DUTY", "ML NODE", "MODEL", "BLOCKS", "STATE", "BLOCKS LEFT"),
        [
            (
                duty.kind,
                duty.node_id or "–",
                duty.model_id or "–",
                f"{duty.first_block}–{duty.end_block - 1}",
                duty.state + (f", {duty.left} left" if duty.left else ""),
                str(duty.blocks_left) if duty.state in ("ahead", "now") else "–",
            )
            for duty in view.duties
        ],
        empty=f"no duties: {view.next_duty}",
    )


@click.command()
@target_options
def earnings(target: Target) -> None:
    """Show what was earned, paid and spent.

    Answers given, vouchers, rewards, balances and gas.

    \b
    Examples:
      quern earnings
      quern earnings --json | jq -r .rewards_claimed
    """
    view = call_daemon(target, "earnings", EarningsView)
    if target.as_json:
        print_json(view)
        return
    unclaimed = int(view.rewards_cumulative) - int(view.rewards_claimed)
    print_facts(
        [
            ("account", view.account),
            ("answers given", f"{view.answers}, {view.output_tokens} output tokens"),
            ("their price", _tokens(view.receipts_price)),
            ("vouchers received", _tokens(view.vouchers_received)),
            ("  not yet redeemed", _tokens(view.vouchers_open)),
            ("  at risk", _tokens(view.vouchers_at_risk)),
            *((f"  from {_short(entry.payer)}", _planned(entry)) for entry in view.redeem_plan[:PLANS_SHOWN_MAX]),
            ("rewards earned", _tokens(view.rewards_cumulative)),
            ("  not yet claimed", _tokens(unclaimed)),
            ("vouchers issued", _tokens(view.vouchers_issued)),
            ("token balance", _tokens(view.token_balance)),
            ("gas coin balance", f"{amount_to_tokens(int(view.gas_balance))} coins"),
            ("gas spent", f"{view.gas_spent} gas"),
        ]
    )


def _short(account: str) -> str:
    return f"{account[:10]}…"


def _planned(entry: RedeemView) -> str:
    return f"{_tokens(entry.amount)}: {entry.plan}"


def _tokens(amount: str | int) -> str:
    return f"{amount_to_tokens(int(amount))} tokens"


@click.command()
@click.argument("address")
@target_options
def connect(target: Target, address: str) -> None:
    """Dial a peer by its multiaddress with peer id.

    \b
    Example:
      quern connect /ip4/203.0.113.7/tcp/4801/p2p/12D3KooW…
    """
    view = call_daemon(target, "connect", ConnectView, {"address": address})
    if target.as_json:
        print_json(view)
    else:
        click.echo(f"connected to {view.peer_id}")


@click.command()
@target_options
def stop(target: Target) -> None:
    """Ask the daemon to finish what it is doing and stop.

    \b
    Example:
      quern stop
    """
    view = call_daemon(target, "stop", StopView)
    if target.as_json:
        print_json(view)
    else:
        click.echo("the daemon is stopping")
