"""What an auditor and whoever has the evidence say to each other during a call of `audit/3`."""

from dataclasses import dataclass

from node.protocol.identifiers import Hash32

METHOD = "audit/3"
CHUNK_BYTES = 128 * 1024
"""Evidence is sent in pieces: a frame has at most 256 KiB."""
ASK_BYTES_MAX = 64
"""Of what anybody may send before it is known who is drawn: a digest has 42."""


@dataclass(frozen=True, slots=True)
class AuditAsk:
    """The evidence of which receipt is asked for. The answer: its bytes (shown_evidence.py), in pieces."""

    digest: Hash32

    def __post_init__(self) -> None:
        if len(self.digest) != 32:
            raise ValueError("a receipt's digest has 32 bytes")
