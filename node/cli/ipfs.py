"""`quern ipfs`: files and directories by CID, as any IPFS tool names them."""

import os
import sys
from contextlib import closing
from pathlib import Path

import click

from node.cli.content_calls import ProgressReport, call_content, offline_option, size_in_words
from node.cli.kubo import kubo, publish_to_kubo
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import listed, print_facts, print_json, print_table
from node.content_paths import parse_content_path
from node.control.content_methods import CHUNK_BYTES_DEFAULT, WIDTH_DEFAULT
from node.control.content_views import (
    AddedView,
    ContentProgress,
    EntryView,
    FoundView,
    ListingView,
    PinsView,
    StatView,
)
from node.dates import date_in_words
from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid, CidError
from p2p.content.tree import CorruptBlockError
from p2p.content.unixfs import CHUNK_BYTES_MAX, UnixFsError
from p2p.content.unixfs_export import file_chunks
from p2p.content.unixfs_import import WIDTH_MAX, WIDTH_MIN, Layout, import_path

PIN_NAME = "operator"
"""Of pins that are made without --name."""


@click.group()
def ipfs() -> None:
    """Add, read and keep files and directories by CID.

    A PATH that is read is a CID, or a path below one: CID/config.json. What is not held here is fetched from peers by
    the daemon; every block is checked against its CID.

    \b
    Examples:
      quern ipfs add ./my-model
      quern ipfs ls bafybei...
      quern ipfs cat bafybei.../config.json
    """


ipfs.add_command(kubo)


@ipfs.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--only-hash", is_flag=True, help="Print the CID and keep nothing.")
@click.option(
    "--chunk-size",
    "chunk_bytes",
    metavar="BYTES",
    type=click.IntRange(1, CHUNK_BYTES_MAX),
    default=CHUNK_BYTES_DEFAULT,
    show_default=True,
    help="Size of the pieces that files are cut into. Another size gives another CID.",
)
@click.option(
    "--width",
    metavar="LINKS",
    type=click.IntRange(WIDTH_MIN, WIDTH_MAX),
    default=WIDTH_DEFAULT,
    show_default=True,
    help="Most pieces that one node links; older tools used 174. Another width gives another CID.",
)
@click.option(
    "--copy", "copy_files", is_flag=True, help="Copy the files into the store instead of keeping them in place."
)
@click.option("--hidden", is_flag=True, help="Take entries whose names begin with a dot as well.")
@click.option("--kubo", "to_kubo", is_flag=True, help="Have your own Kubo hold it too (see `quern ipfs kubo`).")
@offline_option
@target_options
def add(
    target: Target,
    *,
    path: Path,
    only_hash: bool,
    chunk_bytes: int,
    width: int,
    copy_files: bool,
    hidden: bool,
    to_kubo: bool,
    offline: bool,
) -> None:
    """Add a file or directory, pin it, and print its CID.

    Files are kept in place: nothing is copied, and they are served from where they are for as long as they are not
    changed, moved or deleted. A file that is changed is no longer served, never served wrongly; add it again. Use
    --copy for files that will not stay as they are.

    \b
    Examples:
      quern ipfs add ./my-model
      quern ipfs add --only-hash --chunk-size 262144 --width 174 weights.bin
    """
    path = path.absolute()
    skipped = 0 if hidden else _count_hidden(path)
    if only_hash and to_kubo:
        raise click.UsageError("--only-hash keeps nothing that Kubo could be given")
    if only_hash:
        view = _hash(path, Layout(chunk_bytes, width), hidden=hidden)
    else:
        params = {
            "path": str(path),
            "chunk_bytes": chunk_bytes,
            "width": width,
            "copy_files": copy_files,
            "hidden": hidden,
        }
        view = call_content(target, "content_add", AddedView, params, offline=offline)
        if to_kubo:
            publish_to_kubo(target, view.cid, None, offline=offline)
    if view.in_place:
        click.echo("kept in place: served for as long as these files stay as they are (--copy copies them)", err=True)
    if skipped:
        click.echo(f"left out {skipped} entries whose names begin with a dot; --hidden takes them", err=True)
    if target.as_json:
        print_json(view)
    else:
        click.echo(view.cid)


@ipfs.command()
@click.argument("path")
@offline_option
@target_options
def ls(target: Target, *, path: str, offline: bool) -> None:
    """List a directory.

    \b
    Examples:
      quern ipfs ls bafybei...
      quern ipfs ls bafybei.../tokenizer --json | jq '.entries[].name'
    """
    entries: list[EntryView] = []
    while True:
        page = call_content(target, "content_list", ListingView, {"path": path, "after": len(entries)}, offline=offline)
        entries += page.entries
        if not page.more or not page.entries:
            break
    if target.as_json:
        print_json(ListingView(cid=page.cid, entries=entries, more=False))
        return
    print_table(
        ("NAME", "BYTES", "CID"),
        [(_printable(entry), _known(entry.file_bytes), entry.cid) for entry in entries],
        empty="an empty directory",
    )


@ipfs.command()
@click.argument("path")
@offline_option
@target_options
def cat(target: Target, *, path: str, offline: bool) -> None:
    """Write a file's bytes to standard output.

    \b
    Examples:
      quern ipfs cat bafybei.../config.json
      quern ipfs cat bafybei.../weights.safetensors | sha256sum
    """
    found = call_content(target, "content_find", FoundView, {"path": path}, offline=offline)
    if found.kind != "file" or found.file_bytes is None:
        raise CommandFailed(f"{path} is a directory", f"List it with: quern ipfs ls {path}")
    output = sys.stdout.buffer
    with closing(BlockStore(Path(found.store))) as store:
        try:
            for chunk in file_chunks(Cid.parse(found.cid), store.read, limit_bytes=found.file_bytes):
                output.write(chunk)
        except CorruptBlockError as error:
            store.remove(error.cid)
            raise CommandFailed(
                f"{error}; the output is not whole", "Run the command again: the block is fetched anew."
            ) from error
        except (BlockMissingError, UnixFsError) as error:
            raise CommandFailed(f"{error}; the output is not whole", "Run the command again.") from error
    output.flush()


@ipfs.command()
@click.argument("path")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=None,
    help="Where to write it.  [default: its last name, here]",
)
@offline_option
@target_options
def get(target: Target, *, path: str, output: Path | None, offline: bool) -> None:
    """Write a file or directory to disk, whole or not at all.

    What has to be fetched goes straight to where it shall be, is pinned, and is served to others from there.

    \b
    Examples:
      quern ipfs get bafybei... -o my-model
      quern ipfs get bafybei.../config.json
    """
    destination = (output or Path(_last_name(path))).absolute()
    found = call_content(
        target, "content_get", FoundView, {"path": path, "destination": str(destination)}, offline=offline
    )
    if target.as_json:
        print_json(found)
    else:
        click.echo(f"{found.cid} is in {destination}")


@ipfs.command()
@click.argument("path", required=False)
@click.option("--name", default=PIN_NAME, show_default=True, help="Name of the pin; a root may have several.")
@offline_option
@target_options
def pin(target: Target, *, path: str | None, name: str, offline: bool) -> None:
    """Keep a file or directory, fetching what is missing of it; without PATH, list what is kept.

    \b
    Examples:
      quern ipfs pin bafybei...
      quern ipfs pin
    """
    if path is None:
        pins = call_content(target, "content_pins", PinsView, offline=offline)
        if target.as_json:
            print_json(pins)
            return
        print_table(
            ("CID", "NAME", "SINCE"),
            [(item.cid, item.name, date_in_words(item.since)) for item in pins.pins],
            empty="nothing is pinned",
        )
        return
    found = call_content(target, "content_pin", FoundView, {"path": path, "name": name}, offline=offline)
    if target.as_json:
        print_json(found)
    else:
        click.echo(f"{found.cid} is pinned as {name}")


@ipfs.command()
@click.argument("path")
@click.option("--name", default=PIN_NAME, show_default=True, help="Name of the pin (see `quern ipfs pin`).")
@offline_option
@target_options
def unpin(target: Target, *, path: str, name: str, offline: bool) -> None:
    """Remove a pin: what no other pin keeps is removed by `quern content gc`, or when room is needed.

    \b
    Examples:
      quern ipfs unpin bafybei...
      quern ipfs unpin bafybei... --name added
    """
    left = call_content(target, "content_unpin", PinsView, {"path": path, "name": name}, offline=offline)
    if target.as_json:
        print_json(left)
    elif left.pins:
        click.echo(f"unpinned; still kept as: {listed(item.name for item in left.pins)}")
    else:
        click.echo("unpinned")


@ipfs.command()
@click.argument("path")
@offline_option
@target_options
def stat(target: Target, *, path: str, offline: bool) -> None:
    """Show what a CID is, and how much of it is held here.

    \b
    Example:
      quern ipfs stat bafybei...
    """
    view = call_content(target, "content_stat", StatView, {"path": path}, offline=offline)
    if target.as_json:
        print_json(view)
        return
    held = f"{view.held_blocks} of {view.blocks} blocks, {size_in_words(view.held_bytes)}"
    print_facts(
        [
            ("CID", view.cid),
            ("kind", view.kind),
            ("file bytes", _known(view.file_bytes)),
            ("total bytes", str(view.total_bytes)),
            ("held", held + ("" if view.whole else "  (not whole)")),
            ("pins", listed(view.pins)),
        ]
    )


def _hash(path: Path, layout: Layout, *, hidden: bool) -> AddedView:
    """Compute a CID without a store."""
    done = 0
    with ProgressReport() as report:

        def advance(size: int) -> None:
            nonlocal done
            done += size
            report.show(ContentProgress(what="hashing", done_bytes=done, total_bytes=None))

        try:
            imported = import_path(path, Cid.of, layout, include_hidden=hidden, advance=advance)
        except (UnixFsError, OSError) as error:
            raise CommandFailed(str(error)) from error
    return AddedView(
        cid=str(imported.cid), file_bytes=imported.file_bytes, total_bytes=imported.total_bytes, in_place=False
    )


def _known(size: int | None) -> str:
    return "–" if size is None else str(size)


def _count_hidden(path: Path) -> int:
    """Count entries below a directory that are left out."""
    count = 0
    for _, directories, files in os.walk(path):
        count += sum(name.startswith(".") for name in (*directories, *files))
        directories[:] = [name for name in directories if not name.startswith(".")]
    return count


def _last_name(path: str) -> str:
    try:
        root, names = parse_content_path(path)
    except CidError as error:
        raise CommandFailed(f"{path!r} is no path to content: {error}") from error
    return names[-1] if names else str(root)


def _printable(entry: EntryView) -> str:
    """Return a name for a terminal: a publisher may put anything into it, escape sequences included."""
    name = entry.name if entry.name.isprintable() else ascii(entry.name)
    return name + "/" if entry.kind == "directory" else name
