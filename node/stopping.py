"""The end of the daemon in order: asked for once it waits for running answers, asked for twice it does not."""

import trio


class StopRequest:
    """A wish to end the daemon. Signals and the control socket make it, the daemon's services heed it."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.heeded = False
        """Whether anybody waits for it: before that, and when it is repeated, the daemon is simply cancelled."""

    def ask(self) -> bool:
        """Ask for the end in order; return False if nobody would heed it, or it was asked for already."""
        if not self.heeded or self.asked.is_set():
            return False
        self.asked.set()
        return True
