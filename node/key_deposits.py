"""Reads the content key that a model's owner deposited on chain for this account."""

from node.chain.adapter import EvmChain
from node.chain.rpc import RpcError, RpcUnavailableError
from node.models.vault import KeyUnavailableError
from node.protocol.identifiers import ModelId


class KeyDeposits:
    """The AccessVault's wrapped keys of one account."""

    def __init__(self, chain: EvmChain) -> None:
        self._chain = chain

    async def wrapped_key(self, model_id: ModelId) -> bytes:
        """Return this account's wrapped key of a model, empty if there is none. Raises KeyUnavailableError."""
        try:
            return await self._chain.wrapped_key(model_id)
        except (RpcError, RpcUnavailableError, ValueError) as error:
            raise KeyUnavailableError(f"the AccessVault cannot be asked for the key of {model_id}: {error}") from error
