"""`quern chain`: what the chain holds of this account, what the daemon sends, and what an operator has it send."""

import sys
from collections.abc import Mapping
from typing import Any

import click

from node.amounts import amount_to_tokens, tokens_to_amount
from node.cli.calls import call_daemon
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import listed, print_facts, print_json, print_table
from node.control.chain_views import (
    ChainDoneView,
    ChainParticipantsView,
    ChainProgress,
    ChainStatusView,
    ChannelsView,
    ChannelView,
    CollateralView,
    IntentsView,
    IntentView,
    PromptsView,
)
from node.dates import date_in_words

WAIT_SECONDS_MAX = 660
"""The daemon ends its wait earlier, with a better message than ours."""


@click.group()
def chain() -> None:
    """Look at the chain and act on it.

    What changes something is sent through the daemon's outbox: once, whatever happens. It is waited for until it is
    confirmed; leaving with Ctrl-C does not take it back.

    \b
    Examples:
      quern chain status
      quern chain intents --all
      quern chain collateral deposit 100
    """


@chain.command()
@target_options
def status(target: Target) -> None:
    """Show the chain, the account and the outbox at a glance.

    \b
    Example:
      quern chain status
    """
    view = call_daemon(target, "chain_status", ChainStatusView)
    if target.as_json:
        print_json(view)
        return
    gas = "no endpoint answers" if view.gas_balance is None else amount_to_tokens(int(view.gas_balance))
    if view.low_balance:
        gas += f"  (below the reserve of {amount_to_tokens(int(view.gas_reserve))}: put more on the account)"
    print_facts(
        [
            ("chain", str(view.chain_id)),
            ("endpoints", listed(view.endpoints)),
            ("block", f"{view.head_block}, acting on {view.confirmed_block}"),
            ("epoch", f"{view.epoch}, {view.stage} until block {view.next_stage_block}"),
            ("account", view.account),
            ("gas coins", gas),
            ("tokens", "no endpoint answers" if view.token_balance is None else _tokens(view.token_balance)),
            ("outbox", f"{view.intents_pending} pending, {view.intents_failed} failed, {view.intents_done} done"),
            ("gas spent", str(view.gas_spent)),
        ]
    )


@chain.command()
@click.option("--all", "show_all", is_flag=True, help="Those that are done or have failed as well.")
@target_options
def intents(target: Target, *, show_all: bool) -> None:
    """List what the daemon is sending, newest first.

    \b
    Examples:
      quern chain intents
      quern chain intents --all --json | jq '.intents[] | select(.status == "failed")'
    """
    view = call_daemon(target, "chain_intents", IntentsView, {"all": show_all})
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("INTENT", "STATUS", "TRANSACTION", "GAS", "REASON"),
        [
            (intent.key, _intent_status(intent), _transaction(intent), str(intent.gas_used), intent.reason)
            for intent in view.intents
        ],
        empty="nothing was ever sent" if show_all else "nothing is pending; --all shows what was",
    )


@chain.command()
@target_options
def participants(target: Target) -> None:
    """List the participants, the heaviest first.

    \b
    Example:
      quern chain participants
    """
    view = call_daemon(target, "chain_participants", ChainParticipantsView)
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("ACCOUNT", "WEIGHT", "STANDING", "COLLATERAL", "ML NODES", "PEER"),
        [
            (
                participant.account,
                _share(participant.weight, view.total_weight),
                participant.standing,
                _tokens(participant.deposited),
                listed(participant.nodes),
                participant.peer_id,
            )
            for participant in view.participants
        ],
        empty="no participants",
    )


@chain.group(invoke_without_command=True)
@target_options
def collateral(target: Target) -> None:
    """Show this account's collateral, or change it.

    \b
    Examples:
      quern chain collateral
      quern chain collateral deposit 100
      quern chain collateral unbond 40
      quern chain collateral withdraw
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    view = call_daemon(target, "chain_collateral", CollateralView)
    if target.as_json:
        print_json(view)
        return
    print_facts(
        [
            ("account", view.account),
            (
                "standing",
                view.standing + (f" until epoch {view.barred_until}" if view.standing == "barred" else ""),
            ),
            ("deposited", _tokens(view.deposited)),
            ("needed to prove", _tokens(view.min_collateral)),
            ("unbonding", _tokens(view.unbonding)),
            ("  available", date_in_words(view.available_at) if view.available_at else "–"),
        ]
    )


@collateral.command("deposit")
@click.argument("amount")
@target_options
def deposit(target: Target, *, amount: str) -> None:
    """Post AMOUNT tokens as collateral.

    \b
    Example:
      quern chain collateral deposit 100
    """
    _carry_out(target, {"kind": "deposit-collateral", "amount": _amount(amount)})


@collateral.command("unbond")
@click.argument("amount")
@target_options
def unbond(target: Target, *, amount: str) -> None:
    """Ask for AMOUNT tokens back.

    The waiting time begins anew for all that unbonds.

    \b
    Example:
      quern chain collateral unbond 40
    """
    _carry_out(target, {"kind": "unbond-collateral", "amount": _amount(amount)})


@collateral.command("withdraw")
@target_options
def withdraw_collateral(target: Target) -> None:
    """Take all that has unbonded.

    \b
    Example:
      quern chain collateral withdraw
    """
    _carry_out(target, {"kind": "withdraw-collateral"})


@chain.group(invoke_without_command=True)
@target_options
def channels(target: Target) -> None:
    """Show this account's payment channels, or empty one.

    \b
    Examples:
      quern chain channels
      quern chain channels request 0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A
      quern chain channels withdraw 0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    view = call_daemon(target, "chain_channels", ChannelsView)
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("PAYER", "PAYEE", "DEPOSITED", "PROMISED", "REDEEMED", "WITHDRAWAL"),
        [
            (
                channel.payer,
                channel.payee,
                _tokens(channel.deposited),
                _tokens(channel.promised),
                _tokens(channel.redeemed),
                _withdrawal(channel),
            )
            for channel in view.channels
        ],
        empty="no channels",
    )


@channels.command("request")
@click.argument("payee")
@target_options
def request_channel(target: Target, *, payee: str) -> None:
    """Announce that a channel will be emptied.

    PAYEE's time to redeem begins. A new deposit takes the announcement back.

    \b
    Example:
      quern chain channels request 0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A
    """
    _carry_out(target, {"kind": "request-channel", "payee": payee})


@channels.command("withdraw")
@click.argument("payee")
@target_options
def withdraw_channel(target: Target, *, payee: str) -> None:
    """Take back what is left in a channel.

    To PAYEE, once it is unlocked.

    \b
    Example:
      quern chain channels withdraw 0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A
    """
    _carry_out(target, {"kind": "withdraw-channel", "payee": payee})


@chain.group(invoke_without_command=True)
@target_options
def prompts(target: Target) -> None:
    """Show this account's prompts on chain, or dispute an answer.

    \b
    Examples:
      quern chain prompts
      quern chain prompts dispute 12 bafkrei…
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    view = call_daemon(target, "chain_prompts", PromptsView)
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("PROMPT", "STATE", "UNTIL BLOCK", "MODEL", "PRICE", "USER", "EXECUTOR", "ANSWER"),
        [
            (
                str(prompt.prompt_id),
                prompt.state,
                "–" if prompt.until_block is None else str(prompt.until_block),
                prompt.model_id,
                _tokens(prompt.price),
                prompt.user,
                prompt.executor,
                prompt.result_cid or "–",
            )
            for prompt in view.prompts
        ],
        empty="no prompts",
    )


@prompts.command("dispute")
@click.argument("prompt_id", type=click.IntRange(min=0))
@click.argument("reason_cid")
@target_options
def dispute(target: Target, *, prompt_id: int, reason_cid: str) -> None:
    """Dispute an answer.

    Binds the price of PROMPT_ID once more, which is lost if the group finds for the executor. The content REASON_CID
    says what is wrong.

    \b
    Example:
      quern chain prompts dispute 12 bafkrei…
    """
    _carry_out(target, {"kind": "dispute-prompt", "prompt_id": prompt_id, "reason_cid": reason_cid})


@chain.command()
@click.argument("amount")
@click.option("--yes", is_flag=True, help="Do not ask.")
@target_options
def sponsor(target: Target, *, amount: str, yes: bool) -> None:
    """Give AMOUNT tokens to the pot.

    The next results share it out by proved work, beside the subsidy.

    \b
    Example:
      quern chain sponsor 25
    """
    units = _amount(amount)
    _confirm(yes, f"Give {amount} tokens away, to whoever proves work next?")
    _carry_out(target, {"kind": "sponsor", "amount": units})


@chain.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@target_options
def unregister(target: Target, *, yes: bool) -> None:
    """Give up the registration.

    With all ML nodes; collateral stays this account's.

    \b
    Example:
      quern chain unregister
    """
    _confirm(yes, "Give up the registration? This node earns nothing more until it registers again.")
    _carry_out(target, {"kind": "unregister"})


def _carry_out(target: Target, wish: Mapping[str, Any]) -> None:
    async def print_event(event: Mapping[str, Any]) -> None:
        click.echo(ChainProgress.model_validate(event).message, err=True)

    view = call_daemon(
        target,
        "chain_do",
        ChainDoneView,
        {"wish": wish},
        deadline_seconds=WAIT_SECONDS_MAX,
        on_event=None if target.as_json else print_event,
    )
    if target.as_json:
        print_json(view)
        return
    click.echo(f"Done: {view.what}.")
    click.echo(f"{view.gas_used} gas, in {listed(view.transactions)}")


def _confirm(yes: bool, question: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed("this cannot be taken back, and nobody can be asked here", "Repeat it with --yes.")
    click.confirm(question, abort=True, err=True)


def _amount(text: str) -> str:
    try:
        amount = tokens_to_amount(text)
    except ValueError as error:
        raise CommandFailed(str(error), "Amounts are decimal numbers of tokens, such as 2.5.") from error
    if amount == 0:
        raise CommandFailed("the amount is zero", "Amounts are decimal numbers of tokens, such as 2.5.")
    return str(amount)


def _tokens(amount: str) -> str:
    return amount_to_tokens(int(amount))


def _share(weight: int, total: int) -> str:
    return f"{weight} ({100 * weight / total:.1f} %)" if total else str(weight)


def _withdrawal(channel: ChannelView) -> str:
    return "–" if channel.unlock_time is None else f"from {date_in_words(channel.unlock_time)}"


def _intent_status(intent: IntentView) -> str:
    if intent.status != "pending":
        return intent.status
    done = sum(step.status == "done" for step in intent.steps)
    current = next((step.status for step in intent.steps if step.status != "done"), "done")
    return f"{current}, {done} of {len(intent.steps)} done"


def _transaction(intent: IntentView) -> str:
    known = [step.transaction for step in intent.steps if step.transaction is not None]
    return known[-1] if known else "–"
