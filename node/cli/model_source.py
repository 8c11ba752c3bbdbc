"""What somebody means by the SOURCE of `quern model download`."""

from pathlib import Path
from typing import Any

from node.cli.options import CommandFailed

IPFS_PREFIXES = ("bafy", "bafk")


def request_of(source: tuple[str, ...], revision: str | None) -> dict[str, Any]:
    """Return the request that SOURCE means: URLs, a directory, a CID, or a repository of the Hub."""
    if all(item.startswith(("http://", "https://")) for item in source):
        return {"source": "http", "files": [{"url": item} for item in source]}
    if len(source) > 1:
        raise CommandFailed("several sources are only taken if all are URLs", "Give one at a time.")
    [only] = source
    if only.startswith((".", "/", "~")):
        return {"source": "directory", "directory": str(Path(only).expanduser().resolve())}
    if only.removeprefix("ipfs/").startswith(IPFS_PREFIXES) and "/" not in only.removeprefix("ipfs/"):
        return {"source": "ipfs", "cid": only.removeprefix("ipfs/")}
    request = {"source": "hub", "repo": only.removeprefix("huggingface/")}
    return request if revision is None else {**request, "revision": revision}
