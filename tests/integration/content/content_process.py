"""A process with content of its own, for tests that kill it: serves a store, or fetches a model; speaks JSON lines.

python -m tests.integration.content.content_process serve STORE [MODEL]
python -m tests.integration.content.content_process fetch STORE DESTINATION CID PORT...
"""

import json
import sys
import time
from pathlib import Path

import trio

from node.models.content import ContentExchange, open_content
from node.ports import Provider
from node.protocol.identifiers import Cid
from p2p.standing import Standing

STEP_BYTES = 32 * 1024 * 1024


def tell(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


async def serve(store: Path, model: Path | None) -> None:
    async with open_content(store, host="127.0.0.1", port=0, cache_bytes_max=0) as content:
        cid = None if model is None else (await content.import_directory(model, in_place=True))[0]
        tell(port=content.port, cid=cid)
        await trio.to_thread.run_sync(sys.stdin.read)


async def fetch(store: Path, destination: Path, cid: Cid, ports: list[int]) -> None:
    standing = Standing(time.time)
    exchange = ContentExchange(standing=standing)
    told = 0

    def progress(held: int, _total: int | None) -> None:
        nonlocal told
        if held - told >= STEP_BYTES:
            told = held
            tell(held=held)

    async with open_content(store, host="", port=0, cache_bytes_max=0, serve=False, exchange=exchange) as content:
        providers = [Provider("127.0.0.1", port) for port in ports]
        await content.ensure_directory(cid, providers, destination, progress=progress)
        tell(
            fetched={name.rpartition(":")[2]: count for name, count in content.fetched_bytes.items()},
            banned=[ban.peer.rpartition(":")[2] for ban in standing.bans()],
            has=await content.has(cid),
        )


if __name__ == "__main__":
    part, *values = sys.argv[1:]
    if part == "serve":
        trio.run(serve, Path(values[0]), Path(values[1]) if len(values) > 1 else None)
    else:
        trio.run(fetch, Path(values[0]), Path(values[1]), Cid(values[2]), [int(port) for port in values[3:]])
