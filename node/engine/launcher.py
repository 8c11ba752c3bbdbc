"""Runs the engine's server, writes its log, and ends its whole process group when the daemon is gone, however it went.

The daemon holds the other end of standard input: its end of file means that the daemon has died. The log is turned over
when it is full, so that an engine that runs for months does not fill the disk. Only the standard library is used, and
nothing else of ours: this process must be small and must not fail.
"""

import os
import signal
import subprocess
import sys
import threading

READ_BYTES = 65536
LAST_WORDS_SECONDS = 1.0
"""What a dead server said last is waited for; a grandchild that outlived it may keep the pipe open for ever."""


def end_group_with_daemon() -> None:
    """Wait for the daemon's end, then kill everything in this process group, this process included."""
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


class TurningLog:
    """A log file of at most `bytes_max` bytes; full ones are kept as `.1` (the newest) to `.<kept>`."""

    def __init__(self, path: str, bytes_max: int, kept: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._kept = kept

    def write(self, data: bytes) -> None:
        """Append. What cannot be written is lost: an engine must not stop because a disk is full."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, data)
                size = os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
            if size >= self._bytes_max:
                self._turn()
        except OSError:
            pass

    def _turn(self) -> None:
        for number in range(self._kept, 0, -1):
            older = self._path if number == 1 else f"{self._path}.{number - 1}"
            if os.path.exists(older):  # noqa: PTH110 - pathlib takes ten times as long to import
                os.replace(older, f"{self._path}.{number}")  # noqa: PTH105


def write_log(pipe: int, log: TurningLog) -> None:
    """Write what comes out of `pipe` until its end."""
    while data := os.read(pipe, READ_BYTES):
        log.write(data)


def main() -> int:
    """Run `LOG BYTES_MAX KEPT COMMAND…` as given in the arguments; return the command's exit status."""
    if os.getpgrp() != os.getpid():
        sys.stderr.write("the launcher must lead a process group of its own\n")
        return 2
    log = TurningLog(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    reading, writing = os.pipe()
    try:
        child = subprocess.Popen(sys.argv[4:], stdin=subprocess.DEVNULL, stdout=writing, stderr=writing)
    except OSError as error:
        log.write(f"{sys.argv[4]} cannot be started: {error}\n".encode())
        return 127
    os.close(writing)
    signal.signal(signal.SIGTERM, lambda *_: None)  # it is for the server; the launcher ends when that has
    threading.Thread(target=end_group_with_daemon, daemon=True).start()
    writer = threading.Thread(target=write_log, args=(reading, log), daemon=True)
    writer.start()
    status = child.wait()
    writer.join(LAST_WORDS_SECONDS)
    return status


if __name__ == "__main__":
    sys.exit(main())
