"""Whether the account can still pay for gas: looked at from time to time, and told to the operator before it cannot."""

import structlog
import trio

from node.chain.complaints import Complaints
from node.chain.rpc import JsonRpc, RpcError, quantity
from node.protocol.identifiers import Address

log = structlog.get_logger(__name__)

GAS_RESERVE_WEI_DEFAULT = 5 * 10**16
BALANCE_SECONDS = 30.0


class GasReserve:
    """The gas money of `address`. Below `reserve_wei` the operator is warned."""

    def __init__(
        self, rpc: JsonRpc, address: Address, complaints: Complaints, *, reserve_wei: int, poll_seconds: float
    ) -> None:
        """`poll_seconds` is how often `look` is called; a chain of quick blocks is looked at more often."""
        self._rpc = rpc
        self._address = address
        self._complaints = complaints
        self._reserve_wei = reserve_wei
        self._pause_seconds = min(BALANCE_SECONDS, 10 * poll_seconds)
        self._due = 0.0
        self.is_low = False
        """Whether the account held less than the reserve at the last look."""

    async def look(self) -> None:
        """Look if it is time to. Raises RpcUnavailableError."""
        if trio.current_time() < self._due:
            return
        try:
            balance = quantity(await self._rpc.call("eth_getBalance", self._address, "latest"))
        except RpcError as error:
            self._complaints.complain("balance", "the balance cannot be read; sending goes on", str(error))
            return
        self._due = trio.current_time() + self._pause_seconds
        low = balance < self._reserve_wei
        if low and not self.is_low:
            log.error(
                "the account has little left to pay gas with: once it is empty, commits and claims stop and rewards "
                "are lost. Send it some of the chain's coin",
                account=self._address,
                wei=balance,
                reserve_wei=self._reserve_wei,
            )
        elif self.is_low and not low:
            log.info("the account can pay gas again", account=self._address, wei=balance)
        self.is_low = low
