"""The ports: the few interfaces through which services see the world. Real adapters and the simulator implement them.

Nothing here is libp2p, vLLM, EVM or SQLite; everything is in the records of `node.protocol`. A module for each port;
whoever needs them imports them from here.
"""

from node.ports.chain import ActionOutcome, ActionStatus, Chain, Head, StageChange
from node.ports.clock import WallClock
from node.ports.content import BadContentError, Content, ContentNotHeldError, ContentUnavailableError, Provider
from node.ports.engine import (
    ChatMessage,
    Engine,
    EngineFailedError,
    EngineRefusedError,
    GenerationChunk,
    GenerationRequest,
    Prefiller,
    PushedChunks,
    RuleFollower,
)
from node.ports.network import (
    Call,
    CallFailedError,
    CallHandler,
    MessageValidator,
    Network,
    PeerStatus,
    TakeChunk,
    Validity,
)
from node.ports.sealing import Sealing, SealingError
from node.ports.store import EquivocationError, SignedVoucher, Store

__all__ = [
    "ActionOutcome",
    "ActionStatus",
    "BadContentError",
    "Call",
    "CallFailedError",
    "CallHandler",
    "Chain",
    "ChatMessage",
    "Content",
    "ContentNotHeldError",
    "ContentUnavailableError",
    "Engine",
    "EngineFailedError",
    "EngineRefusedError",
    "EquivocationError",
    "GenerationChunk",
    "GenerationRequest",
    "Head",
    "MessageValidator",
    "Network",
    "PeerStatus",
    "Prefiller",
    "Provider",
    "PushedChunks",
    "RuleFollower",
    "Sealing",
    "SealingError",
    "SignedVoucher",
    "StageChange",
    "Store",
    "TakeChunk",
    "Validity",
    "WallClock",
]
