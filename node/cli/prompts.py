"""`quern prompts`: prompts that were handed in, on chain or open by gossip, and what became of them."""

import click

from node.amounts import amount_to_tokens
from node.cli.calls import call_daemon
from node.cli.options import Target, target_options
from node.cli.render import print_json, print_table
from node.control.prompt_views import PromptAnswerView, PromptAsksView, PromptAskView, ReclaimedView

RECLAIM_SECONDS_MAX = 300
"""A transaction, and the blocks until it is confirmed."""


@click.group()
def prompts() -> None:
    """Prompts handed in, and what became of them.

    On chain (`quern ask --on-chain`), open by gossip (`--open`), or over HTTP. They go on when nobody waits for them,
    and after a restart of the daemon.

    \b
    Examples:
      quern prompts list
      quern prompts show 0f5c…
      quern prompts reclaim 12
    """


@prompts.command("list")
@target_options
def list_prompts(target: Target) -> None:
    """List the prompts that are remembered, newest first.

    \b
    Example:
      quern prompts list
    """
    view = call_daemon(target, "prompts_list", PromptAsksView)
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("ID", "MODE", "STATE", "MODEL", "TOKENS", "PRICE", "ON CHAIN", "EXECUTOR"),
        [
            (
                ask.ask_id,
                f"{ask.mode}, private" if ask.private else ask.mode,
                ask.state,
                ask.model_id,
                f"{ask.prompt_tokens} + {ask.output_tokens}" if ask.output_tokens else "–",
                _price(ask),
                "–" if ask.prompt_id is None else str(ask.prompt_id),
                ask.executor or "–",
            )
            for ask in view.asks
        ],
        empty="no prompts",
    )


@prompts.command()
@click.argument("ask_id")
@target_options
def show(target: Target, *, ask_id: str) -> None:
    """Show what became of a prompt.

    ASK_ID is as `quern prompts list` has it. The answer goes to standard output, the rest to standard error.

    \b
    Example:
      quern prompts show 0f5c29a1b2c3d4e5f60718293a4b5c6d
    """
    view = call_daemon(target, "prompts_show", PromptAnswerView, {"ask_id": ask_id})
    if target.as_json:
        print_json(view)
        return
    ask = view.ask
    if view.text is not None:
        click.echo(view.text)
    told = [ask.mode, ask.state, ask.reason, ask.model_id]
    if ask.output_tokens:
        told += [f"{ask.prompt_tokens} + {ask.output_tokens} tokens", f"{_price(ask)} to {ask.executor}"]
    click.echo(f"[{', '.join(part for part in told if part)}]", err=True)


@prompts.command()
@click.argument("prompt_id", type=click.IntRange(min=0))
@target_options
def reclaim(target: Target, *, prompt_id: int) -> None:
    """Take back the escrow of a prompt on chain.

    PROMPT_ID is its number there. Only if nobody answered it in time; the daemon does it by itself for prompts it still
    remembers.

    \b
    Example:
      quern prompts reclaim 12
    """
    view = call_daemon(
        target, "prompts_reclaim", ReclaimedView, {"prompt_id": prompt_id}, deadline_seconds=RECLAIM_SECONDS_MAX
    )
    if target.as_json:
        print_json(view)
        return
    click.echo(f"The escrow of prompt {view.prompt_id} is back.")


def _price(ask: PromptAskView) -> str:
    return amount_to_tokens(int(ask.price)) if ask.output_tokens else "–"
