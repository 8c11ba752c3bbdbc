"""`quern ask`: a question to the network from the command line, its answer as it is written."""

import sys
from collections.abc import Mapping
from typing import Any

import click

from node.amounts import amount_to_tokens
from node.cli.calls import call_daemon
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import print_json
from node.control.methods import ASK_SECONDS_MAX
from node.control.views import AskEvent, AskView

GRACE_SECONDS = 5
"""The daemon ends an ask at its deadline with a better message than ours: it gets so much longer."""


@click.command()
@click.argument("prompt")
@click.option("--model", default=None, help="Model to ask.  [default: the only one there is]")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Length of the answer.")
@click.option("--system", default=None, help="System message that goes before the question.")
@click.option("--on-chain", is_flag=True, help="Submit the prompt to the contract; costs gas and takes some blocks.")
@click.option("--open", "is_open", is_flag=True, help="Let whoever is drawn answer; paid when the answer is there.")
@click.option("--private", is_flag=True, help="Leave no trace of the prompt with anybody but who answers it.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1, max=ASK_SECONDS_MAX),
    default=300,
    show_default=True,
    help="Seconds to wait for the whole answer.",
)
@target_options
def ask(
    target: Target,
    *,
    prompt: str,
    model: str | None,
    max_tokens: int,
    system: str | None,
    on_chain: bool,
    is_open: bool,
    private: bool,
    timeout: float,
) -> None:
    """Ask the network a question. A PROMPT of - is read from standard input.

    The answer goes to standard output as it is written; what it cost, to standard error.

    \b
    Examples:
      quern ask "What is a quern?"
      quern ask --model tiny --max-tokens 32 "Once upon a time"
      quern ask --on-chain "Say it for the record"
      quern ask --open --private "Who knows?"
      quern ask - < question.txt
    """
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise CommandFailed("the question is empty")
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    params: dict[str, Any] = {
        "messages": messages,
        "max_tokens": max_tokens,
        "on_chain": on_chain,
        "open": is_open,
        "private": private,
        "deadline_seconds": timeout,
    }
    if model is not None:
        params["model"] = model
    if on_chain and is_open:
        raise click.UsageError("--on-chain and --open are two ways to ask; choose one")
    streamed = False

    async def print_event(event: Mapping[str, Any]) -> None:
        nonlocal streamed
        said = AskEvent.model_validate(event)
        if said.state:
            click.echo(f"[{said.state}]", err=True)
            return
        streamed = True
        click.echo(said.text, nl=False)

    view = call_daemon(
        target,
        "ask",
        AskView,
        params,
        deadline_seconds=timeout + GRACE_SECONDS,
        on_event=None if target.as_json else print_event,
    )
    if target.as_json:
        print_json(view)
        return
    click.echo("" if streamed else view.text)
    click.echo(
        f"[{view.model_id}, {view.prompt_tokens} + {view.output_tokens} tokens, {view.seconds:.1f} s, "
        f"{amount_to_tokens(int(view.price))} tokens of Quern paid to {view.executor}]",
        err=True,
    )
