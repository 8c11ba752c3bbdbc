"""Keeps the registry equal to the settings: this account, its peer, and its ML nodes with their models."""

from collections.abc import Sequence

import structlog

from node.ports import ActionStatus, Chain, Network
from node.protocol.actions import ChainAction, RegisterParticipant, SubmitHardwareDiff
from node.protocol.peer_binding import peer_binding
from node.protocol.records import MLNodeRegistration

log = structlog.get_logger(__name__)


def hardware_diff(
    registered: Sequence[MLNodeRegistration], wanted: Sequence[MLNodeRegistration]
) -> SubmitHardwareDiff | None:
    """Return what makes `registered` equal to `wanted`, or None if it is."""
    known = {node.node_id: node for node in registered}
    added = tuple(node for node in wanted if known.get(node.node_id) != node)
    kept = {node.node_id for node in wanted}
    removed = tuple(node.node_id for node in registered if node.node_id not in kept)
    return SubmitHardwareDiff(added, removed) if added or removed else None


class RegistrationService:
    """Registers at the start and whenever the registry differs from the settings."""

    def __init__(self, chain: Chain, network: Network, nodes: Sequence[MLNodeRegistration]) -> None:
        self._chain = chain
        self._network = network
        self._nodes = nodes

    async def run(self) -> None:
        """Compare at every block; register what is missing. Nodes wait until their models are active."""
        async for head in self._chain.heads():
            participant = self._chain.state.participants.get(self._chain.account)
            if participant is None or participant.peer_id != self._network.peer_id:
                binding = peer_binding(self._chain.chain_id, self._chain.epoch_manager, self._chain.account)
                signature = self._network.sign_as_peer(binding)
                await self._submit(f"register/{head.confirmed}", RegisterParticipant(self._network.peer_id, signature))
                continue
            state = self._chain.state
            ready = [
                node
                for node in self._nodes
                if all(state.is_valid_governance_model(model_id) for model_id in node.models)
                or node in participant.ml_nodes
            ]
            diff = hardware_diff(participant.ml_nodes, ready)
            if diff is not None:
                await self._submit(f"hardware/{head.confirmed}", diff)

    async def _submit(self, key: str, action: ChainAction) -> None:
        await self._chain.submit(key, action)
        outcome = await self._chain.outcome(key)
        if outcome.status is ActionStatus.FAILED:
            log.error("the registry refused the registration", reason=outcome.reason)
        else:
            log.info("registered", key=key)
