"""EIP-712 digests of what contracts verify: vouchers, results, objections, verdicts, access requests."""

import functools

from eth_abi.abi import encode
from eth_hash.auto import keccak

from node.protocol.cids import cid_to_bytes
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.records import AccessRequest, EpochResultSummary, OffenceVerdict, Voucher

DOMAIN_TYPE = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
VOUCHER_TYPE = keccak(b"Voucher(bytes32 channelId,uint256 cumulative,bytes32 receiptsRoot)")
EPOCH_RESULT_TYPE = keccak(
    b"EpochResult(uint64 epoch,bytes contentCid,bytes32 validatorSetHash,uint256 totalWeight,"
    b"bytes32 rewardsRoot,uint256 rewardTotal)"
)
OBJECTION_TYPE = keccak(b"Objection(uint64 epoch,bytes32 resultDigest)")
VERDICT_TYPE = keccak(b"Verdict(uint64 epoch,address participant,uint8 offence,bytes evidenceCid)")
DISPUTE_VERDICT_TYPE = keccak(b"DisputeVerdict(uint256 promptId,bool forUser)")
ACCESS_REQUEST_TYPE = keccak(b"AccessRequest(string modelId,address account,uint256 nonce,uint64 expiry)")
WORD_BYTES = 32
CHANNEL_IDS_KEPT_MAX = 4096
VERDICTS_KEPT_MAX = 1024
"""Each is signed by every member of its group, and every signature is checked."""
DOMAINS_KEPT_MAX = 64
"""One for each contract that verifies something."""
NAME_HASH = keccak(b"Quern")
VERSION_HASH = keccak(b"1")


@functools.lru_cache(maxsize=CHANNEL_IDS_KEPT_MAX)
def channel_id(chain_id: int, payment_channels: Address, payer: Address, payee: Address) -> Hash32:
    """Return the id of the one channel from `payer` to `payee`."""
    values = (chain_id, payment_channels, payer, payee)
    return Hash32(keccak(encode(["uint256", "address", "address", "address"], values)))


def voucher_digest(voucher: Voucher, chain_id: int, payment_channels: Address) -> Hash32:
    """Return what the payer signs."""
    # Spelled out: one is signed or checked for every few tokens, and all four values are words already.
    words = (VOUCHER_TYPE, voucher.channel_id, voucher.cumulative.to_bytes(WORD_BYTES), voucher.receipts_root)
    return _digest(b"".join(words), chain_id, payment_channels)


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


def objection_digest(epoch: EpochNumber, result_digest: Hash32, chain_id: int, epoch_manager: Address) -> Hash32:
    """Return what members sign who will not have a posted result."""
    values = (OBJECTION_TYPE, epoch, result_digest)
    return _digest(encode(["bytes32", "uint64", "bytes32"], values), chain_id, epoch_manager)


@functools.lru_cache(maxsize=VERDICTS_KEPT_MAX)
def verdict_digest(verdict: OffenceVerdict, chain_id: int, slashing: Address) -> Hash32:
    """Return what the members of the verdict's epoch sign to have an offence punished."""
    evidence = keccak(cid_to_bytes(verdict.evidence_cid))
    values = (VERDICT_TYPE, verdict.epoch, verdict.participant, verdict.offence.value, evidence)
    return _digest(encode(["bytes32", "uint64", "address", "uint8", "bytes32"], values), chain_id, slashing)


def dispute_verdict_digest(prompt_id: int, *, for_user: bool, chain_id: int, coordinator: Address) -> Hash32:
    """Return what members of a prompt's group sign to decide a dispute over its answer."""
    values = (DISPUTE_VERDICT_TYPE, prompt_id, for_user)
    return _digest(encode(["bytes32", "uint256", "bool"], values), chain_id, coordinator)


def access_request_digest(request: AccessRequest, chain_id: int, access_vault: Address) -> Hash32:
    """Return what an account signs to use a gated model."""
    values = (ACCESS_REQUEST_TYPE, keccak(request.model_id.encode()), request.account, request.nonce, request.expiry)
    types = ["bytes32", "bytes32", "address", "uint256", "uint64"]
    return _digest(encode(types, values), chain_id, access_vault)


def _digest(encoded_struct: bytes, chain_id: int, verifying_contract: Address) -> Hash32:
    return Hash32(keccak(b"\x19\x01" + _domain(chain_id, verifying_contract) + keccak(encoded_struct)))


@functools.lru_cache(maxsize=DOMAINS_KEPT_MAX)
def _domain(chain_id: int, verifying_contract: Address) -> bytes:
    types = ["bytes32", "bytes32", "bytes32", "uint256", "address"]
    return bytes(keccak(encode(types, (DOMAIN_TYPE, NAME_HASH, VERSION_HASH, chain_id, verifying_contract))))
