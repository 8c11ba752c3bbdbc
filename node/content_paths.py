"""Paths to content as people write them: `<cid>`, `<cid>/a/b`, `/ipfs/<cid>/a`, `ipfs://<cid>/a`."""

from p2p.content.cid import Cid, CidError

_PREFIXES = ("/ipfs/", "ipfs://")


def parse_content_path(text: str) -> tuple[Cid, tuple[str, ...]]:
    """Return the root and the names below it; raise CidError. Empty names (`a//b`, a slash at the end) are left out."""
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    root, *names = text.split("/")
    if root.startswith("Qm"):
        raise CidError(f"{root} is a CID of version 0; convert it to version 1 (base32, it then begins with b)")
    return Cid.parse(root), tuple(name for name in names if name)
