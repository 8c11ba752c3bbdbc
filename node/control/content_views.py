"""What is answered about content: trees of blocks by CID, pins, and the store that holds them."""

from node.control.views import View


class ContentProgress(View):
    """How far something has come."""

    what: str
    """For people: what is being done."""
    done_bytes: int
    total_bytes: int | None


class AddedView(View):
    """A file or directory that was taken in."""

    cid: str
    file_bytes: int
    total_bytes: int
    """Encoded bytes of all blocks."""
    in_place: bool
    """Whether its files are held where they are."""


class FoundView(View):
    """What a path leads to, held by the store."""

    cid: str
    kind: str
    """`file` or `directory`."""
    file_bytes: int | None
    """Of a file; None for a directory."""
    store: str
    """Directory of the store that holds it."""


class EntryView(View):
    """A name in a directory."""

    name: str
    cid: str
    kind: str | None
    """`file` or `directory`; None if its node is not held."""
    file_bytes: int | None
    """Of a file, if known."""
    total_bytes: int
    """Encoded bytes below, as the publisher claims."""


class ListingView(View):
    """A page of a directory, or a file as its own only entry."""

    cid: str
    entries: list[EntryView]
    more: bool
    """Whether there are entries after these."""


class StatView(View):
    """A tree of blocks."""

    cid: str
    kind: str
    file_bytes: int | None
    total_bytes: int
    """Encoded bytes of all blocks, equal ones counted as often as they are linked, as the publisher claims."""
    blocks: int
    """Different blocks that are known; below a node that is missing none is."""
    held_blocks: int
    held_bytes: int
    whole: bool
    """Whether all of it is held."""
    pins: list[str]
    """Names under which this root is pinned."""


class PinView(View):
    """A root that is kept."""

    cid: str
    name: str
    since: int
    """UNIX seconds."""


class PinsView(View):
    """All pins, the oldest first."""

    pins: list[PinView]


class UsageView(View):
    """What the store holds."""

    directory: str
    blocks: int
    block_bytes: int
    bytes_max: int
    files: int
    leaves: int
    leaf_bytes: int
    pins: int
    duplicates: int
    duplicate_bytes: int
    free_bytes: int
    """Of the disk."""


class GarbageView(View):
    """What a collection removed."""

    blocks: int
    block_bytes: int
    files: int
    leftovers: int
    missing: int


class DamageView(View):
    """A block that is not what its CID says."""

    cid: str
    path: str
    offset: int
    size: int
    reason: str


class ScrubView(View):
    """What a scrub found."""

    blocks: int
    checked_bytes: int
    damaged: int
    damages: list[DamageView]
    """The first of them."""
    removed: bool
    """Whether they were forgotten, so that they are fetched again."""
    incomplete: list[str]
    """Pinned roots of which something is missing now."""
