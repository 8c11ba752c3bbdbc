"""`quern keys`: the API keys of a gateway's users."""

import json
import sys
import time

import click

from node.amounts import amount_to_tokens, tokens_to_amount
from node.api.keys import ApiKey, KeyLimits, add_api_key, read_api_keys, revoke_api_key
from node.cli.calls import call_daemon
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import listed, print_json, print_table
from node.control.key_views import KeysView, KeyView
from node.dates import date_in_words
from node.private_files import PrivateFileError
from node.settings import SettingsError, load_settings
from node.settings.sections.api import ApiSettings

SECONDS_PER_DAY = 86_400


@click.group()
def keys() -> None:
    """Manage who may ask this gateway, how often and for how much.

    While there is no key at all, an API on loopback is open to whoever reaches it. From the first key on, only keys
    open it; changes hold from the next request.

    \b
    Examples:
      quern keys add alice --day-budget 2.5 --requests-per-minute 60
      quern keys usage
      quern keys revoke alice
    """


@keys.command("add")
@click.argument("name")
@click.option("--day-budget", metavar="TOKENS", help="Most tokens of money to spend in a day (UTC), e.g. 2.5.")
@click.option("--budget", metavar="TOKENS", help="Most tokens of money to spend altogether.")
@click.option("--requests-per-minute", type=click.IntRange(min=1), help="Most requests per minute.")
@click.option("--tokens-per-minute", type=click.IntRange(min=1), help="Most tokens read and written per minute.")
@click.option("--model", "models", multiple=True, help="A model that may be asked; all, without this. Repeatable.")
@click.option("--days", type=click.IntRange(min=1, max=36_500), help="Days after which the key expires.")
@target_options
def add(
    target: Target,
    name: str,
    *,
    day_budget: str | None,
    budget: str | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    models: tuple[str, ...],
    days: int | None,
) -> None:
    """Make a key and print it; it cannot be shown again.

    \b
    Example:
      quern keys add alice --day-budget 2.5 --model tiny --days 30
    """
    now = int(time.time())
    try:
        limits = KeyLimits(
            expires_at=None if days is None else now + days * SECONDS_PER_DAY,
            day_amount_max=None if day_budget is None else tokens_to_amount(day_budget),
            total_amount_max=None if budget is None else tokens_to_amount(budget),
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            models=models,
        )
        keys_file = _settings(target).keys_file
        is_first = read_api_keys(keys_file) is None
        made = add_api_key(keys_file, name, limits, at=now)
    except (ValueError, PrivateFileError) as error:
        raise CommandFailed(str(error)) from error
    click.echo(json.dumps({"name": name, "key": made, "is_first": is_first}, indent=2) if target.as_json else made)
    if sys.stderr.isatty():
        closed = " From now on only keys open the API, also on this machine." if is_first else ""
        click.echo(f"It is shown only this once.{closed}", err=True)


@keys.command("list")
@target_options
def list_(target: Target) -> None:
    """List the names and limits of the keys.

    \b
    Example:
      quern keys list
    """
    try:
        found = read_api_keys(_settings(target).keys_file)
    except PrivateFileError as error:
        raise CommandFailed(str(error)) from error
    if target.as_json:
        views = None if found is None else [_as_json(key) for key in found]
        click.echo(json.dumps({"keys": views or [], "has_file": found is not None}, indent=2))
        return
    print_table(
        ("NAME", "PER DAY", "ALTOGETHER", "REQUESTS/MIN", "TOKENS/MIN", "MODELS", "EXPIRES"),
        [
            (
                key.name,
                _tokens(key.day_amount_max),
                _tokens(key.total_amount_max),
                _number(key.requests_per_minute),
                _number(key.tokens_per_minute),
                listed(key.models) if key.models else "all",
                "never" if key.expires_at is None else date_in_words(key.expires_at),
            )
            for key in found or ()
        ],
        empty="no keys: nobody may ask"
        if found is not None
        else "no keys: whoever reaches the API may ask; make one with `quern keys add NAME`",
    )


@keys.command()
@target_options
def usage(target: Target) -> None:
    """Show what each key has asked and spent. Needs a running daemon.

    \b
    Examples:
      quern keys usage
      quern keys usage --json | jq '.keys[] | {name, amount: .total.amount}'
    """
    view = call_daemon(target, "key_usage", KeysView)
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("NAME", "REQUESTS", "READ", "WRITTEN", "SPENT TODAY", "OF", "SPENT", "OF", "RUNNING"),
        [
            (
                _name(key),
                str(key.total.requests),
                str(key.total.prompt_tokens),
                str(key.total.output_tokens),
                _tokens(key.today.amount),
                _tokens(key.day_amount_max),
                _tokens(key.total.amount),
                _tokens(key.total_amount_max),
                _tokens(key.reserved),
            )
            for key in view.keys
        ],
        empty="no keys; make one with `quern keys add NAME`",
    )


@keys.command()
@click.argument("name")
@target_options
def revoke(target: Target, name: str) -> None:
    """Remove a key: it opens nothing any more.

    \b
    Example:
      quern keys revoke alice
    """
    try:
        revoked = revoke_api_key(_settings(target).keys_file, name)
    except PrivateFileError as error:
        raise CommandFailed(str(error)) from error
    if not revoked:
        raise CommandFailed(f"there is no key named {name}", "See `quern keys list`.")
    click.echo(json.dumps({"name": name, "revoked": True}) if target.as_json else f"{name} is revoked")


def _settings(target: Target) -> ApiSettings:
    """Return where the daemon's file of keys is: it is written here, so that no key passes the socket."""
    try:
        return load_settings(target.settings_file).api
    except SettingsError as error:
        raise CommandFailed(str(error)) from error


def _as_json(key: ApiKey) -> dict[str, object]:
    """Return what may be shown of a key, under the names that `quern keys usage --json` has; its digest is not."""
    return {
        "name": key.name,
        "key_id": key.key_id,
        "expires_at": key.expires_at,
        "day_amount_max": key.day_amount_max,
        "total_amount_max": key.total_amount_max,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "models": list(key.models),
    }


def _name(key: KeyView) -> str:
    if not key.name:
        return f"(revoked {key.key_id[:8]})"
    return f"{key.name} (expired)" if key.is_expired else key.name


def _tokens(amount: str | None) -> str:
    return "–" if amount is None else amount_to_tokens(int(amount))


def _number(number: int | None) -> str:
    return "–" if number is None else str(number)
