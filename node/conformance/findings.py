"""What was found of a server and what it is good for. Pure.

Detail: each check says for which level it is needed. A server reaches a level if nothing that this level, or one below
it, needs is missing. The lowest level is reached by answering a chat in either of two ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Mark(StrEnum):
    """How a check went."""

    HOLDS = "holds"
    MISSING = "missing"
    """The server does not have it."""
    WRONG = "wrong"
    """It has it and gives wrong answers: worse than missing."""
    UNKNOWN = "unknown"
    """It cannot be told from outside, or what it needs is missing."""


class Level(IntEnum):
    """What a server is good for; each includes those before it."""

    NONE = 0
    CHAT = 1
    """It answers chats: through the miner API of a node, for the node's own callers and in private networks."""
    SERVE = 2
    """It serves requests of the network: in token ids, counted, continued by others where it fails."""
    PROVE = 3
    """It proves its work, so that it has weight, is drawn for requests and earns."""
    AUDIT = 4
    """Its answers hold up in audits."""


MEANING = {
    Level.NONE: "it cannot be an ML node",
    Level.CHAT: "it answers chats of this node's own callers; it cannot serve the network",
    Level.SERVE: "it can serve the network, but cannot prove its work: it has no weight and is not drawn",
    Level.PROVE: "it serves and proves its work; its answers hold up in no audit",
    Level.AUDIT: "it can do all that an ML node does",
}
CHAT_CHECKS = frozenset({"miner chat", "chat", "embeddings"})
"""One of them is enough for the lowest level; a server of an embedding model has vectors in place of chats."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `cost` says what lacking it means, `remedy` what to do."""

    name: str
    mark: Mark
    message: str
    needed_for: Level | None = None
    """None: good to have."""
    cost: str = ""
    remedy: str = ""

    @property
    def fails(self) -> bool:
        """Whether it is not what it should be."""
        return self.mark in (Mark.MISSING, Mark.WRONG)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one server."""

    model: str
    """The model that was asked; empty if none was found."""
    server: str
    """What it says it is, such as `vLLM 0.32.0`; empty if it does not."""
    checks: tuple[Check, ...]

    @property
    def level(self) -> Level:
        """The highest level that is reached. One that needs nothing is reached with the one below: vectors are proved
        by comparing vectors, and audits do no more.
        """
        if not any(check.name in CHAT_CHECKS and check.mark is Mark.HOLDS for check in self.checks):
            return Level.NONE
        reached = Level.CHAT
        for level in (Level.SERVE, Level.PROVE, Level.AUDIT):
            needed = [check for check in self.checks if check.needed_for is level]
            if any(check.mark is not Mark.HOLDS for check in needed):
                break
            reached = level
        return reached

    @property
    def meaning(self) -> str:
        """What the level means."""
        return MEANING[self.level]

    @property
    def api(self) -> str:
        """What `[[engines]] api` has to say for this server; empty if it cannot be one."""
        if self.level >= Level.SERVE:
            return "vllm"
        answered = {check.name for check in self.checks if check.mark is Mark.HOLDS}
        return "openai" if "chat" in answered else "miner" if "miner chat" in answered else ""


def lacking(checks: Sequence[Check]) -> tuple[Check, ...]:
    """Return what is missing or wrong, the needed first."""
    order = sorted((check for check in checks if check.fails), key=lambda check: check.needed_for or Level.AUDIT + 1)
    return tuple(order)
