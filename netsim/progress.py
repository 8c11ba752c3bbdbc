"""Says how a long run goes on: a line for each epoch, with what it took."""

import resource
import time
from collections.abc import Callable

from netsim.ledger import Ledger
from node.protocol.stages import stage_at

KIB_PER_MIB = 1024


def tell_epochs(ledger: Ledger, tell: Callable[[str], None]) -> None:
    """Have `tell` take a line whenever an epoch of `ledger` has ended. To be called before the first block."""
    epoch, began = 0, time.process_time()

    def on_block() -> None:
        nonlocal epoch, began
        present = stage_at(ledger.height, ledger.schedule).epoch
        if present == epoch:
            return
        seconds, memory_mib = time.process_time() - began, _memory_mib()
        state = "its result is posted" if epoch in ledger.state.results else "no result"
        tell(f"epoch {epoch} is over: {state}, {seconds:.1f} s of processor time, {memory_mib} MiB of memory at most")
        epoch, began = present, began + seconds

    ledger.watch(on_block)


def _memory_mib() -> int:
    """What this process used at most so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // KIB_PER_MIB
