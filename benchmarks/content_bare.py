"""A server and a client that only do what no program can leave out: sendfile, and receive, hash and write by a block.

Purpose: what the kernel and SHA-256 take for it on this machine, at this moment, with nothing of ours on top.

Detail: as many connections as are opened; connection k moves blocks k, k + n, ... of n, each end with a blocking thread
for each connection, so that the interpreter is entered three times per block. Nothing is verified, only hashed.
"""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cost import BLOCK_BYTES, Cost

SEND_BUFFER_BYTES = 512 * 1024
"""As the gateway has."""


def send(listener: socket.socket, path: Path, connections: int) -> Cost:
    """Send the file once over so many connections; return what it cost."""
    accepted = [listener.accept()[0] for _ in range(connections)]
    before = Cost.so_far()
    blocks = path.stat().st_size // BLOCK_BYTES

    def serve(number: int) -> None:
        with accepted[number] as connected, path.open("rb") as file:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            for block in range(number, blocks, connections):
                offset, end = block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES
                while offset < end:
                    offset += os.sendfile(connected.fileno(), file.fileno(), offset, end - offset)

    _run(serve, connections)
    return Cost.so_far().since(before)


def fetch(port: int, path: Path, blocks: int, connections: int) -> tuple[float, Cost]:
    """Receive, hash and write a new file over so many connections; return the seconds and what it cost."""
    opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    begin, before = time.perf_counter(), Cost.so_far()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(descriptor, blocks * BLOCK_BYTES)
    writing = threading.Lock()  # a file takes one writer at a time, and lets the others spin

    def take(number: int) -> None:
        buffer = bytearray(BLOCK_BYTES)
        with opened[number] as connected, memoryview(buffer) as view:
            for block in range(number, blocks, connections):
                filled = 0
                while filled < BLOCK_BYTES:
                    received = connected.recv_into(view[filled:], 0, socket.MSG_WAITALL)
                    if not received:
                        raise SystemExit("the bare server ended early")
                    filled += received
                hashlib.sha256(buffer).digest()
                with writing:
                    os.pwrite(descriptor, buffer, block * BLOCK_BYTES)

    _run(take, connections)
    os.close(descriptor)
    return time.perf_counter() - begin, Cost.so_far().since(before)


def _run(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
