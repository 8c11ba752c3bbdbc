"""`quern model login` and `quern model token`: files of secrets, written here so that none passes the socket."""

import sys

import click

from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import print_table
from node.models.tokens import ApiRole, add_api_token, read_api_tokens, remove_api_token, write_hub_token
from node.private_files import PrivateFileError
from node.settings import Settings, SettingsError, load_settings
from node.settings.sections.models import ModelSettings


@click.command()
@target_options
def login(target: Target) -> None:
    """Store the token that opens gated models on the Hub.

    It is asked for, or read from standard input, and kept in a file that only you can read. The daemon uses it from
    the next download on.

    \b
    Example:
      quern model login < token.txt
    """
    file = _settings(target).hub_token_file
    token = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    try:
        write_hub_token(file, str(token).strip())
    except (ValueError, PrivateFileError) as error:
        raise CommandFailed(str(error), "Make one at https://huggingface.co/settings/tokens.") from error
    click.echo(f"stored in {file}")


@click.group()
def token() -> None:
    """Manage who may use the management API of models.

    The API is off while there is no token; the first one needs a restart of the daemon.

    \b
    Examples:
      quern model token add dashboard --role read-only
      quern model token remove dashboard
    """


@token.command("add")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in ApiRole]),
    default=ApiRole.READ_ONLY.value,
    show_default=True,
    help="read-only looks, operator also downloads, admin also removes.",
)
@target_options
def add_token(target: Target, name: str, *, role: str) -> None:
    """Make a token and print it; it cannot be shown again.

    \b
    Example:
      quern model token add dashboard --role read-only
    """
    try:
        made = add_api_token(_settings(target).api_tokens_file, name, ApiRole(role))
    except (ValueError, PrivateFileError) as error:
        raise CommandFailed(str(error)) from error
    click.echo(made)


@token.command("list")
@target_options
def list_tokens(target: Target) -> None:
    """List the names and roles of the tokens.

    \b
    Example:
      quern model token list
    """
    try:
        tokens = read_api_tokens(_settings(target).api_tokens_file)
    except PrivateFileError as error:
        raise CommandFailed(str(error)) from error
    print_table(("NAME", "ROLE"), [(item.name, item.role.value) for item in tokens], empty="no tokens: the API is off")


@token.command("remove")
@click.argument("name")
@target_options
def remove_token(target: Target, name: str) -> None:
    """Remove a token: it opens nothing any more.

    \b
    Example:
      quern model token remove dashboard
    """
    try:
        removed = remove_api_token(_settings(target).api_tokens_file, name)
    except PrivateFileError as error:
        raise CommandFailed(str(error)) from error
    if not removed:
        raise CommandFailed(f"there is no token named {name}", "See `quern model token list`.")
    click.echo(f"{name} is removed")


def _settings(target: Target) -> ModelSettings:
    """Return where the daemon's files of tokens are: they are written here, so that no token passes the socket."""
    try:
        settings: Settings = load_settings(target.settings_file)
    except SettingsError as error:
        raise CommandFailed(str(error)) from error
    return settings.models
