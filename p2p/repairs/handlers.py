"""Stream handlers: an exception in one concerns its stream, not the host.

libp2p 0.8.1 runs the handlers in the nursery of its connection, and that in the nursery of the host: an exception that
leaves any handler ends everything. Watched by test_a_handler_that_raises_ends_an_unguarded_host_but_not_ours.
"""

from typing import Any

import structlog
import trio

log = structlog.get_logger(__name__)

RESET_SECONDS_MAX = 5.0
"""Telling a peer that does not read must not hold the task for ever."""


def guard_streams(host: Any) -> None:
    """Reset a stream whose handler raised, instead of ending the host."""
    network = host.get_network()
    handle = network.common_stream_handler

    async def guarded(stream: Any) -> None:
        try:
            await handle(stream)
        except Exception as error:
            log.info("a stream handler failed; the stream is reset", reason=repr(error))
            with trio.move_on_after(RESET_SECONDS_MAX):
                try:
                    await stream.reset()
                except Exception as reset_error:  # the stream may be gone already, with its connection
                    log.debug("the stream could not be reset", reason=repr(reset_error))

    network.set_stream_handler(guarded)
