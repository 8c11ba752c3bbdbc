"""`quern model`: the models on this machine. What the network registers is `quern models`."""

import sys
from pathlib import Path
from typing import Any

import click

from node.cli.calls import call_daemon
from node.cli.model_progress import ModelProgressBar
from node.cli.model_source import request_of
from node.cli.model_tokens import login, token
from node.cli.options import CommandFailed, Target, target_options
from node.cli.render import print_facts, print_json, print_table
from node.control.model_views import (
    AuditView,
    LocalModelsView,
    LocalModelView,
    ModelExportView,
    ModelFilesView,
    ModelProgressView,
    ModelRemovedView,
    ModelVerifiedView,
)
from node.dates import date_in_words
from node.models.registry import write_export
from node.models.states import ModelStatus, ModelType

WAIT_SECONDS_MAX = 30 * 86400.0
"""A download takes as long as it takes; the daemon ends it, not the command line."""
BYTES_PER_UNIT = 1000
UNITS = ("B", "kB", "MB", "GB", "TB")


@click.group()
def model() -> None:
    """Manage the models on this machine.

    They come from the Hugging Face Hub, from peers by CID, from web servers or from a directory. What the network's
    registry holds is shown by `quern models`.

    \b
    Examples:
      quern model list
      quern model download Qwen/Qwen3-0.6B
      quern model verify huggingface/Qwen/Qwen3-0.6B
    """


model.add_command(login)
model.add_command(token)


@model.command("list")
@click.option("--type", "model_type", type=click.Choice([item.value for item in ModelType]), help="Only of this type.")
@click.option("--status", type=click.Choice([item.value for item in ModelStatus]), help="Only in this state.")
@click.option("--text", help="Only with this in the id.")
@target_options
def list_(target: Target, *, model_type: str | None, status: str | None, text: str | None) -> None:
    """List the models on this machine.

    \b
    Examples:
      quern model list
      quern model list --status error --json | jq '.models[].reason'
    """
    params = {"model_type": model_type, "status": status, "text": text}
    view = call_daemon(target, "model_list", LocalModelsView, params)
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("MODEL", "STATUS", "SIZE", "TYPE", "VERSION", "LAST USED", ""),
        [
            (
                item.model_id,
                item.status,
                size_in_words(item.size_bytes) if item.size_bytes else "–",
                item.model_type,
                item.version[:12] or "–",
                date_in_words(item.last_used_at),
                _marks(item),
            )
            for item in view.models
        ],
        empty="no models; get one with `quern model download`",
    )
    if view.models:
        limit = f" of {size_in_words(view.bytes_max)}" if view.bytes_max else ""
        click.echo(f"\n{size_in_words(view.bytes_held)}{limit} on disk")


@model.command()
@click.argument("model_id")
@target_options
def show(target: Target, model_id: str) -> None:
    """Show all that is known of a model.

    \b
    Example:
      quern model show huggingface/Qwen/Qwen3-0.6B
    """
    view = call_daemon(target, "model_show", LocalModelView, {"model_id": model_id})
    if target.as_json:
        print_json(view)
        return
    print_facts(
        [
            ("model", view.model_id),
            ("status", view.status + (f": {view.reason}" if view.reason else "")),
            ("type", view.model_type),
            ("version", view.version or "not known yet"),
            ("size", size_in_words(view.size_bytes)),
            ("directory", view.path),
            ("downloaded", "–" if view.download_date is None else date_in_words(view.download_date)),
            ("last used", date_in_words(view.last_used_at)),
            ("pinned", "yes" if view.pinned else "no"),
            ("loaded", "yes" if view.loaded else "no"),
            *((name, str(value)) for name, value in view.metadata.items()),
        ]
    )


@model.command()
@click.argument("source", nargs=-1, required=True)
@click.option("--revision", help="Commit, branch or tag on the Hub.  [default: main]")
@click.option("--id", "model_id", help="Name to keep it under: huggingface/…, ipfs/… or custom/….")
@click.option("--type", "model_type", type=click.Choice([item.value for item in ModelType]), help="What it does.")
@click.option("--include", multiple=True, help="Take files of this pattern only; may be repeated.")
@click.option("--exclude", multiple=True, help="Leave out files of this pattern; may be repeated.")
@click.option("--no-wait", is_flag=True, help="Return at once; `quern model status` tells how far it is.")
@target_options
def download(
    target: Target,
    source: tuple[str, ...],
    *,
    revision: str | None,
    model_id: str | None,
    model_type: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    no_wait: bool,
) -> None:
    """Download a model.

    SOURCE is a repository of the Hub (OWNER/NAME), a CID, a directory, or URLs of files, each with #sha256=… if it is
    known. Ctrl-C leaves the download running; `quern model cancel` ends it. What was cut off goes on where it stopped.

    \b
    Examples:
      quern model download Qwen/Qwen3-0.6B --revision c1899de289a04d12100db370d81485cdf75e47ca
      quern model download bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi
      quern model download ./my-model --id custom/mine
      quern model download https://example.org/model.safetensors#sha256=… --id custom/release
    """
    request = request_of(source, revision)
    given: dict[str, Any] = {"model_id": model_id, "model_type": model_type}
    request |= {name: value for name, value in given.items() if value is not None}
    request |= {name: list(value) for name, value in (("include", include), ("exclude", exclude)) if value}
    params = {"request": request, "wait": not no_wait}
    quiet = target.as_json or no_wait
    with ModelProgressBar("downloading", shown=not quiet) as bar:
        view = call_daemon(
            target,
            "model_download",
            ModelProgressView,
            params,
            deadline_seconds=WAIT_SECONDS_MAX,
            on_event=None if quiet else bar.on_event,
        )
    if target.as_json:
        print_json(view)
    elif view.status == ModelStatus.AVAILABLE:
        click.echo(f"{view.model_id} is available: {view.files_total} files, {size_in_words(view.bytes_total)}")
    else:
        click.echo(f"{view.model_id} is {view.status}; see `quern model status {view.model_id}`")


@model.command()
@click.argument("model_id")
@target_options
def status(target: Target, model_id: str) -> None:
    """Show how far a model's download is.

    \b
    Example:
      quern model status huggingface/Qwen/Qwen3-0.6B
    """
    view = call_daemon(target, "model_status", ModelProgressView, {"model_id": model_id})
    if target.as_json:
        print_json(view)
        return
    total = size_in_words(view.bytes_total) if view.bytes_total else "?"
    print_facts(
        [
            ("model", view.model_id),
            ("status", view.status + (f": {view.message}" if view.message else "")),
            ("bytes", f"{size_in_words(view.bytes_done)} of {total}"),
            ("files", f"{view.files_done} of {view.files_total}"),
            ("speed", f"{size_in_words(view.bytes_per_second)}/s"),
            ("tries", str(view.tries)),
        ]
    )


@model.command()
@click.argument("model_id")
@target_options
def cancel(target: Target, model_id: str) -> None:
    """Cancel a download; what came of it is kept for seven days.

    \b
    Example:
      quern model cancel huggingface/Qwen/Qwen3-0.6B
    """
    view = call_daemon(target, "model_cancel", ModelProgressView, {"model_id": model_id})
    if target.as_json:
        print_json(view)
    else:
        click.echo(f"{view.model_id} is {view.status}: {view.message}")


@model.command()
@click.argument("model_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@target_options
def remove(target: Target, model_id: str, *, yes: bool) -> None:
    """Remove a model from the disk.

    \b
    Example:
      quern model remove huggingface/Qwen/Qwen3-0.6B
    """
    if not yes:
        if not sys.stdin.isatty():
            raise CommandFailed("nobody can be asked here whether to remove it", "Repeat it with --yes.")
        click.confirm(f"Remove {model_id} from this machine?", abort=True, err=True)
    view = call_daemon(
        target, "model_remove", ModelRemovedView, {"model_id": model_id}, deadline_seconds=WAIT_SECONDS_MAX
    )
    if target.as_json:
        print_json(view)
    else:
        click.echo(f"{view.model_id} is removed")


@model.command()
@click.argument("model_id")
@target_options
def files(target: Target, model_id: str) -> None:
    """List a model's files with their checksums.

    \b
    Example:
      quern model files huggingface/Qwen/Qwen3-0.6B
    """
    view = call_daemon(target, "model_files", ModelFilesView, {"model_id": model_id})
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("FILE", "SIZE", "SHA256"),
        [(item.path, size_in_words(item.size_bytes), item.sha256 or "by its CID") for item in view.files],
        empty="no files: it is not available",
    )


@model.command()
@click.argument("model_id")
@target_options
def pin(target: Target, model_id: str) -> None:
    """Keep a model: it never gives way to others.

    \b
    Example:
      quern model pin huggingface/Qwen/Qwen3-0.6B
    """
    _pin(target, model_id, pinned=True)


@model.command()
@click.argument("model_id")
@target_options
def unpin(target: Target, model_id: str) -> None:
    """Let a model give way to others again.

    \b
    Example:
      quern model unpin huggingface/Qwen/Qwen3-0.6B
    """
    _pin(target, model_id, pinned=False)


@model.command()
@click.argument("model_id")
@target_options
def verify(target: Target, model_id: str) -> None:
    """Read all bytes of a model and compare them with what was downloaded.

    A damaged model is in error from then on; exit code 1.

    \b
    Example:
      quern model verify huggingface/Qwen/Qwen3-0.6B
    """
    with ModelProgressBar("reading", shown=not target.as_json) as bar:
        view = call_daemon(
            target,
            "model_verify",
            ModelVerifiedView,
            {"model_id": model_id},
            deadline_seconds=WAIT_SECONDS_MAX,
            on_event=None if target.as_json else bar.on_event,
        )
    if target.as_json:
        print_json(view)
    elif not view.faults:
        click.echo(f"{view.model_id} is whole")
    if view.faults:
        raise CommandFailed(f"{view.model_id} is damaged: {'; '.join(view.faults)}", "Remove it and download it again.")


@model.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@target_options
def export(target: Target, file: Path | None) -> None:
    """Write the list of models as JSON, to FILE or to standard output.

    \b
    Example:
      quern model export models.json
    """
    view = call_daemon(target, "model_export", ModelExportView)
    if file is None:
        click.echo(view.json_text, nl=False)
        return
    try:
        write_export(file, view.json_text)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}") from error


@model.command()
@click.option("--model", "model_id", help="Only of this model.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many, newest first.")
@target_options
def audit(target: Target, *, model_id: str | None, limit: int) -> None:
    """Show who did what to which model.

    \b
    Example:
      quern model audit --limit 10
    """
    view = call_daemon(target, "model_audit", AuditView, {"limit": limit, "model_id": model_id})
    if target.as_json:
        print_json(view)
        return
    print_table(
        ("WHEN", "WHO", "WHAT", "MODEL", "DETAIL"),
        [(date_in_words(item.at), item.actor, item.action, item.model_id, item.detail[:80]) for item in view.entries],
        empty="nothing was done yet",
    )


def size_in_words(count: int) -> str:
    """Return a number of bytes as `1.5 GB`."""
    size, unit = float(count), 0
    while size >= BYTES_PER_UNIT and unit < len(UNITS) - 1:
        size, unit = size / BYTES_PER_UNIT, unit + 1
    return f"{count} B" if unit == 0 else f"{size:.1f} {UNITS[unit]}"


def _pin(target: Target, model_id: str, *, pinned: bool) -> None:
    view = call_daemon(target, "model_pin", LocalModelView, {"model_id": model_id, "pinned": pinned})
    if target.as_json:
        print_json(view)
    else:
        click.echo(f"{view.model_id} is {'pinned' if view.pinned else 'not pinned any more'}")


def _marks(item: LocalModelView) -> str:
    marks = [word for word, holds in (("pinned", item.pinned), ("loaded", item.loaded)) if holds]
    return ", ".join(marks) or item.reason[:60]
