"""`quern content`: the store that holds blocks: its integrity, its garbage, its size."""

import click

from node.cli.content_calls import call_content, offline_option, size_in_words
from node.cli.options import Target, target_options
from node.cli.render import print_facts, print_json, print_table
from node.control.content_views import GarbageView, ScrubView, UsageView

GRACE_HOURS_DEFAULT = 7 * 24.0
EXIT_DAMAGED = 1


@click.group()
def content() -> None:
    """Look after the store of blocks.

    \b
    Examples:
      quern content usage
      quern content verify --repair
    """


@content.command()
@click.option("--repair", is_flag=True, help="Forget what is damaged, so that it is fetched again.")
@offline_option
@target_options
def verify(target: Target, *, repair: bool, offline: bool) -> None:
    """Read and hash everything that is held.

    Takes as long as reading all of it. Exit code 1 if something is damaged.

    \b
    Examples:
      quern content verify
      quern content verify --repair
    """
    view = call_content(target, "content_verify", ScrubView, {"repair": repair}, offline=offline)
    if target.as_json:
        print_json(view)
    else:
        click.echo(f"checked {view.blocks} blocks, {size_in_words(view.checked_bytes)}: {view.damaged} damaged")
        if view.damages:
            print_table(
                ("BLOCK", "FILE", "OFFSET", "WHAT IS WRONG"),
                [(item.cid, ascii(item.path)[1:-1], str(item.offset), item.reason) for item in view.damages],
                empty="",
            )
        _advise(view)
    if view.damaged:
        click.get_current_context().exit(EXIT_DAMAGED)


def _advise(view: ScrubView) -> None:
    if view.damaged and not view.removed:
        click.echo("Run `quern content verify --repair` to forget these blocks: they are then fetched again.")
    if view.damaged and view.removed:
        click.echo("These blocks are forgotten. Files kept in place were not touched: fetch or add them again.")
    for root in view.incomplete:
        click.echo(f"pinned, but not whole: {root}  (`quern ipfs pin {root}` fetches the rest)")


@content.command()
@click.option(
    "--grace-hours",
    type=click.FloatRange(min=0),
    default=GRACE_HOURS_DEFAULT,
    show_default=True,
    help="Keep what came or was used within this time; imports and fetches under way need some.",
)
@offline_option
@target_options
def gc(target: Target, *, grace_hours: float, offline: bool) -> None:
    """Remove blocks that no pin keeps. Files kept in place are forgotten, never deleted.

    \b
    Example:
      quern content gc
    """
    view = call_content(
        target, "content_collect_garbage", GarbageView, {"grace_seconds": grace_hours * 3600}, offline=offline
    )
    if target.as_json:
        print_json(view)
        return
    click.echo(
        f"removed {view.blocks} blocks ({size_in_words(view.block_bytes)}) and {view.leftovers} leftovers of killed "
        f"writers; {view.files} files in place are no longer served"
    )
    if view.missing:
        click.echo(
            f"{view.missing} nodes of pinned trees are not held, so what lies below them is unknown: "
            "blocks made here were all kept"
        )


@content.command()
@offline_option
@target_options
def usage(target: Target, *, offline: bool) -> None:
    """Show what the store holds.

    \b
    Example:
      quern content usage --json | jq .block_bytes
    """
    view = call_content(target, "content_usage", UsageView, offline=offline)
    if target.as_json:
        print_json(view)
        return
    limit = f" of {size_in_words(view.bytes_max)}" if view.bytes_max else ""
    print_facts(
        [
            ("store", view.directory),
            ("blocks", f"{view.blocks}, {size_in_words(view.block_bytes)}{limit}"),
            ("files in place", f"{view.files} with {view.leaves} blocks, {size_in_words(view.leaf_bytes)}"),
            ("pins", str(view.pins)),
            ("not stored twice", f"{view.duplicates} blocks, {size_in_words(view.duplicate_bytes)}"),
            ("free on disk", size_in_words(view.free_bytes)),
        ]
    )
