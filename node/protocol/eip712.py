"""EIP-712 digests of what contracts verify: vouchers and epoch results. Vectors are shared with Solidity."""

from eth_abi.abi import encode
from eth_hash.auto import keccak

from node.protocol.cids import cid_to_bytes
from node.protocol.identifiers import Address, Hash32
from node.protocol.records import EpochResultSummary, Voucher

DOMAIN_TYPE = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
VOUCHER_TYPE = keccak(b"Voucher(bytes32 channelId,uint256 cumulative,bytes32 receiptsRoot)")
EPOCH_RESULT_TYPE = keccak(
    b"EpochResult(uint64 epoch,bytes contentCid,bytes32 validatorSetHash,uint256 totalWeight,"
    b"bytes32 rewardsRoot,uint256 rewardTotal)"
)
NAME_HASH = keccak(b"Quern")
VERSION_HASH = keccak(b"1")


def channel_id(chain_id: int, payment_channels: Address, payer: Address, payee: Address) -> Hash32:
    """Return the id of the one channel from `payer` to `payee`."""
    values = (chain_id, payment_channels, payer, payee)
    return Hash32(keccak(encode(["uint256", "address", "address", "address"], values)))


def voucher_digest(voucher: Voucher, chain_id: int, payment_channels: Address) -> Hash32:
    """Return what the payer signs."""
    values = (VOUCHER_TYPE, voucher.channel_id, voucher.cumulative, voucher.receipts_root)
    return _digest(encode(["bytes32", "bytes32", "uint256", "bytes32"], values), chain_id, payment_channels)


def epoch_result_digest(summary: EpochResultSummary, chain_id: int, epoch_manager: Address) -> Hash32:
    """Return what the members of the epoch's group sign."""
    types = ["bytes32", "uint64", "bytes32", "bytes32", "uint256", "bytes32", "uint256"]
    values = (
        EPOCH_RESULT_TYPE,
        summary.epoch,
        keccak(cid_to_bytes(summary.content_cid)),
        summary.validator_set_hash,
        summary.total_weight,
        summary.rewards_root,
        summary.reward_total,
    )
    return _digest(encode(types, values), chain_id, epoch_manager)


def _digest(encoded_struct: bytes, chain_id: int, verifying_contract: Address) -> Hash32:
    types = ["bytes32", "bytes32", "bytes32", "uint256", "address"]
    domain = keccak(encode(types, (DOMAIN_TYPE, NAME_HASH, VERSION_HASH, chain_id, verifying_contract)))
    return Hash32(keccak(b"\x19\x01" + domain + keccak(encoded_struct)))
