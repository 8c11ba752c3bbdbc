"""Runs the engine's server and ends its whole process group when the daemon is gone, however it went.

The daemon holds the other end of standard input: its end of file means that the daemon has died. Only the standard
library is used, and nothing else of ours: this process must be small and must not fail.
"""

import os
import signal
import subprocess
import sys
import threading


def end_group_with_daemon() -> None:
    """Wait for the daemon's end, then kill everything in this process group, this process included."""
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> int:
    """Run the command given as arguments; return its exit status."""
    if os.getpgrp() != os.getpid():
        sys.stderr.write("the launcher must lead a process group of its own\n")
        return 2
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=end_group_with_daemon, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
