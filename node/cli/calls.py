"""One call to the daemon from a command, with its failures told in words."""

from collections.abc import Mapping
from typing import Any, TypeVar

import trio

from node.cli.options import CommandFailed, Target
from node.control.client import ControlError, DaemonNotRunningError, EventSink, connect_control
from node.control.views import View

CALL_SECONDS_MAX = 30
"""A daemon that does not answer a plain question for so long is stuck."""

Answer = TypeVar("Answer", bound=View)


def call_daemon(
    target: Target,
    method: str,
    answer_type: type[Answer],
    params: Mapping[str, Any] | None = None,
    *,
    deadline_seconds: float = CALL_SECONDS_MAX,
    on_event: EventSink | None = None,
) -> Answer:
    """Call the daemon and return its answer; raise CommandFailed with what to do."""

    async def call() -> Answer:
        async with connect_control(target.socket()) as client:
            return await client.call(
                method, params or {}, answer_type, deadline_seconds=deadline_seconds, on_event=on_event
            )

    try:
        return trio.run(call)
    except DaemonNotRunningError as error:
        raise CommandFailed(str(error), how_to_start(target)) from error
    except ControlError as error:
        raise CommandFailed(error.message, error.remedy) from error


def how_to_start(target: Target) -> str:
    """Return what to do when no daemon runs."""
    if target.settings_file.exists():
        return f"Start it with: quernd --config {target.settings_file}"
    return (
        f"There are no settings in {target.data_dir}. Make them with `quern init --data-dir {target.data_dir}`, "
        "or name another directory with --data-dir."
    )
