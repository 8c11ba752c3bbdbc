"""How a simulated node behaves where it could cheat: the honest way, of which adversaries.py overrides parts."""

from dataclasses import dataclass

from netsim.chain import SimulatedChain
from netsim.content import SimulatedContent
from netsim.engine import DrawingEngine
from netsim.network import SimulatedNetwork, Switchboard
from node.ports import Chain, Engine
from node.protocol.identifiers import Address, ModelId, NodeId, PeerId
from node.protocol.signatures import DigestSigner
from node.services.broker import Broker
from node.services.brokered import BrokeredEngine
from node.services.validating import ValidatingService

NODE_ID = NodeId("node-1")
HONEST_NOISE = 0.01
"""Spread between the log-probabilities of two honest machines."""


@dataclass(frozen=True, slots=True)
class EngineSetting:
    """Which machine a node's engine is."""

    model_id: ModelId
    weights: str
    seed: int
    """Of its noise: no two machines are quite alike."""
    answers_with: str


class Conduct:
    """What a node is made of. One object serves one node, through all its restarts."""

    validator: type[ValidatingService] = ValidatingService
    """How it comes to its votes."""

    def prepare(self, account: Address, chain: SimulatedChain, content: SimulatedContent) -> None:
        """Called whenever the node starts, before any of its services: where hostile switches are set."""

    def network(
        self, switchboard: Switchboard, peer_id: PeerId, account: Address, signer: DigestSigner
    ) -> SimulatedNetwork:
        """Its place in the network."""
        return SimulatedNetwork(switchboard, peer_id, account, signer)

    def engine(self, setting: EngineSetting) -> DrawingEngine:
        """What it answers users with, and what everything else it computes comes from."""
        return DrawingEngine(
            NODE_ID, setting.model_id, setting.weights, HONEST_NOISE, setting.seed, setting.answers_with
        )

    def mining_engine(self, engine: DrawingEngine, broker: Broker, chain: Chain) -> Engine:
        """What its batches of nonces come from."""
        del chain
        return BrokeredEngine(engine, broker)

    def auditing_engine(self, engine: DrawingEngine, broker: Broker) -> Engine:
        """What it reads others' answers with."""
        return BrokeredEngine(engine, broker)


HONEST = Conduct()
