"""What a transaction may use and pay: its limit of gas, the going fees within the operator's limit, and more for one
that does not get into a block."""

from node.chain.rpc import JsonRpc, RpcError, quantity

GWEI = 10**9
MAX_FEE_GWEI_DEFAULT = 500
PRIORITY_FEE_DEFAULT_WEI = 1_000_000_000
BUMP_PER_MILLE = 1125
"""Nodes refuse replacements below 1.1 times both fees; a little more leaves room for their rounding."""
GAS_MARGIN_PER_MILLE = 1250
"""What a call needs may grow between the estimate and its block; unused gas costs nothing."""
GAS_LIMIT_MAX = 2**24
"""No transaction may ask for more (EIP-7825)."""


class Fees:
    """What endpoints say of fees, in wei per gas, bounded by `max_fee_wei` whatever they say."""

    def __init__(self, rpc: JsonRpc, max_fee_wei: int) -> None:
        self._rpc = rpc
        self.max_fee_wei = max_fee_wei

    async def going(self) -> tuple[int, int]:
        """Return (base fee, priority fee) of now, without a bound. Raises RpcError, RpcUnavailableError."""
        block = await self._rpc.block("latest")
        base_fee = 0 if block is None else block.base_fee
        try:
            return base_fee, quantity(await self._rpc.call("eth_maxPriorityFeePerGas"))
        except RpcError:
            return base_fee, PRIORITY_FEE_DEFAULT_WEI

    async def first(self) -> tuple[int, int]:
        """Return (most, priority fee) that a new transaction offers."""
        base_fee, priority_fee = await self.going()
        max_fee = min(2 * base_fee + priority_fee, self.max_fee_wei)
        return max_fee, min(priority_fee, max_fee)

    async def above(self, max_fee: int, priority_fee: int) -> tuple[int, int]:
        """Return (most, priority fee) of what replaces a transaction that offered so much in vain."""
        now_max, now_priority = await self.first()
        max_fee = min(max(now_max, _raised(max_fee)), self.max_fee_wei)
        return max_fee, min(max(now_priority, _raised(priority_fee)), max_fee)


def gas_limit(estimate: int) -> int:
    """Return the limit of gas for a call that needs `estimate` now."""
    return min(estimate * GAS_MARGIN_PER_MILLE // 1000, GAS_LIMIT_MAX)


def _raised(fee: int) -> int:
    return -(-fee * BUMP_PER_MILLE // 1000) + 1
