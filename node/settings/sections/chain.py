"""`[chain]`: the EVM chain."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from node.settings.section import Section
from node.settings.value_types import Tokens, Url


class ChainSettings(Section):
    """The EVM chain on which the network settles."""

    rpc_urls: list[Url] = Field(
        default=["http://127.0.0.1:8545"], min_length=1, description="JSON-RPC endpoints, the preferred one first."
    )
    chain_id: int = Field(
        default=31337, ge=1, description="EIP-155 chain id; the daemon refuses to run on any other chain."
    )
    deployment: Path = Field(
        default=Path("deployment.json"),
        description="The network's deployment file: contract addresses, from its deployer.",
    )
    confirmations: int = Field(
        default=2,
        ge=0,
        le=1000,
        description="Blocks on top of a block before the daemon acts on it. Too few and a reorganisation costs you\n"
        "work; too many and you miss the windows of an epoch.",
    )
    finality: Literal["confirmations", "finalized"] = Field(
        default="confirmations",
        description="When a block counts: `confirmations` by the number above, `finalized` when the chain itself\n"
        "calls it final (safest; on Ethereum some 15 minutes, too long for short epochs).",
    )
    poll_seconds: float = Field(default=1.0, gt=0, le=60, description="How often to ask for a new block.")
    max_fee_gwei: int = Field(
        default=500,
        ge=1,
        le=100_000,
        description="Most to pay per gas, in units of 10^-9 of the gas coin. When the chain asks more, transactions\n"
        "wait; what an epoch has deadlines for is then lost.",
    )
    gas_reserve_ether: Tokens = Field(
        default="0.05", description="Warn when the account holds less of the gas coin than this."
    )
