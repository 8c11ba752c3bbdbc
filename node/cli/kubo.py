"""`quern ipfs kubo`: has the operator's own Kubo hold a file or directory, so that all of IPFS finds it there."""

from contextlib import closing
from pathlib import Path

import click
import trio

from node.cli.content_calls import ProgressReport, call_content, offline_option
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import print_json
from node.control.content_views import ContentProgress, FoundView, StatView
from node.control.views import View
from node.settings import SettingsError, load_settings
from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid
from p2p.content.dagpb import DagPbError
from p2p.content.kubo import Kubo, KuboError


class PublishedView(View):
    """What Kubo holds now."""

    cid: str
    blocks: int
    kubo: str
    """Address of its API."""


@click.command()
@click.argument("path")
@click.option(
    "--api", "address", default=None, metavar="ADDRESS", help="RPC address of Kubo.  [default: kubo_api of [content]]"
)
@offline_option
@target_options
def kubo(target: Target, *, path: str, address: str | None, offline: bool) -> None:
    """Give a file or directory to your own Kubo, block by block, and pin it there.

    The daemon serves Quern's peers much faster; Kubo is how everybody else's IPFS finds it. Needs Kubo 0.13 or newer.

    \b
    Examples:
      quern ipfs kubo bafybei...
      quern ipfs kubo bafybei... --api /ip4/127.0.0.1/tcp/5001
    """
    view = publish_to_kubo(target, path, address, offline=offline)
    if target.as_json:
        print_json(view)
    else:
        click.echo(f"{view.cid} is pinned by Kubo at {view.kubo}: {view.blocks} blocks")


def publish_to_kubo(target: Target, path: str, address: str | None, *, offline: bool) -> PublishedView:
    """Give what is at `path` to Kubo; without `address` to the one of the settings. Raises CommandFailed."""
    address = address or _address_of(target)
    found = call_content(target, "content_find", FoundView, {"path": path}, offline=offline)  # fetches what is missing
    held = call_content(target, "content_stat", StatView, {"path": path}, offline=offline)
    with ProgressReport() as report, closing(BlockStore(Path(found.store))) as store:
        done = 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            report.show(ContentProgress(what="giving to Kubo", done_bytes=done, total_bytes=held.total_bytes))

        async def publish() -> int:
            kubo = Kubo(address)
            try:
                await kubo.version()  # unreachable or not Kubo: said before anything is sent
                return await kubo.publish(Cid.parse(found.cid), store.read, advance)
            finally:
                kubo.close()

        try:
            blocks = trio.run(publish)
        except KuboError as error:
            raise CommandFailed(str(error), "Start Kubo (ipfs daemon), or name its RPC address with --api.") from error
        except (BlockMissingError, DagPbError, OSError) as error:
            raise CommandFailed(f"{error}; Kubo has not pinned it", "See: quern content verify") from error
    return PublishedView(cid=found.cid, blocks=blocks, kubo=address)


def _address_of(target: Target) -> str:
    address = ""
    if target.settings_file.exists():
        try:
            address = load_settings(target.settings_file).content.kubo_api
        except SettingsError as error:
            raise CommandFailed(str(error), "Correct the settings.") from error
    if not address:
        raise CommandFailed(
            "no Kubo is known", "Name its RPC address with --api, or set kubo_api in [content] of the settings."
        )
    return address
