"""A process that downloads models until it is killed; see test_recovery.py.

Arguments: folder, the Hub's URL, bytes per second. Says `begun` once its downloads run, `done` when all have ended.
"""

import sys
from dataclasses import replace
from pathlib import Path

import trio

from node.models.requests import DirectoryRequest, HubRequest
from tests.unit.models.managing import Place, ended


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main() -> None:
    folder, hub_url, bandwidth = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    place = Place(folder, hub_url=hub_url)
    place.options = replace(place.options, bandwidth_bytes_per_second_max=bandwidth)
    async with place.manager() as manager:
        names = [
            manager.download(HubRequest(repo="owner/model"), "child").model_id,
            manager.download(DirectoryRequest(directory=folder / "source"), "child").model_id,
        ]
        say("begun")
        for name in names:
            await ended(manager, name)
        say("done")
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
