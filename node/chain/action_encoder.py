"""From the protocol's actions to the contracts' calls. Pure: nothing here talks to a chain."""

from collections.abc import Sequence
from dataclasses import dataclass

import base58

from contracts.binding_base import Call
from contracts.bindings import (
    epoch_manager,
    inference_coordinator,
    model_registry,
    participant_registry,
    payment_channels,
    quern_token,
    reward_distributor,
    slashing,
)
from node.chain.addresses import ContractAddresses, contract_names
from node.protocol.actions import (
    AddWorkCoins,
    AnswerPrompt,
    CalibrateModel,
    ChainAction,
    ClaimReward,
    CommitPoc,
    CommitVotes,
    DeactivateModel,
    DepositCollateral,
    DisputePrompt,
    FundChannel,
    PostEpochResult,
    PunishParticipant,
    ReclaimPrompt,
    RedeemVoucher,
    RedeemVouchers,
    RegisterModel,
    RegisterParticipant,
    RequestWithdrawal,
    SetModelSpec,
    SettlePrompt,
    SubmitHardwareDiff,
    SubmitPrompt,
    UnbondCollateral,
    UnregisterParticipant,
    UpdateModel,
    VoidEpochResult,
    WithdrawCollateral,
    WithdrawFromChannel,
)
from node.protocol.cids import cid_to_bytes
from node.protocol.identifiers import Address, EpochNumber
from node.protocol.signatures import compact_signature

BITMAP_WORD_BITS = 256
UINT256_MAX = 2**256 - 1


@dataclass(frozen=True, slots=True)
class ContractCall:
    """One transaction: where to and with what."""

    recipient: Address
    calldata: bytes


PlainAction = (
    RegisterParticipant
    | SubmitHardwareDiff
    | UnregisterParticipant
    | UnbondCollateral
    | WithdrawCollateral
    | CommitPoc
    | CommitVotes
    | ClaimReward
    | RequestWithdrawal
    | WithdrawFromChannel
    | RedeemVoucher
    | RedeemVouchers
    | AnswerPrompt
    | SettlePrompt
    | ReclaimPrompt
    | RegisterModel
    | SetModelSpec
    | UpdateModel
    | CalibrateModel
    | DeactivateModel
)
"""Actions of one transaction that takes nothing from the sender."""
Payment = DepositCollateral | AddWorkCoins | FundChannel | SubmitPrompt | DisputePrompt
"""Actions by which a contract takes tokens of the sender."""
SignedAction = PostEpochResult | VoidEpochResult | PunishParticipant
"""Actions that carry signatures of members of a group."""


def encode_action(action: ChainAction, addresses: ContractAddresses) -> tuple[ContractCall, ...]:
    """Return the transactions of an action that the sender alone signs, in the order in which they must succeed.

    Raises ValueError for a SignedAction: see `encode_signed_action`.
    """
    if isinstance(action, SignedAction):
        raise ValueError("signatures of members need the signing group: use encode_signed_action")
    if isinstance(action, Payment):
        call = _to(addresses, _payment_call(action))
        return (_approve(addresses, call.recipient), call)
    return (_to(addresses, _plain_call(action)),)


def _payment_call(action: Payment) -> Call:
    match action:
        case DepositCollateral(amount):
            return participant_registry.deposit_collateral(amount)
        case AddWorkCoins(amount):
            return reward_distributor.add_work_coins(amount)
        case FundChannel(payee, amount):
            return payment_channels.deposit(payee, amount)
        case SubmitPrompt(prompt_cid, model_id, max_tokens, max_price):
            return inference_coordinator.submit_prompt_with_max_tokens_and_price_limit(
                prompt_cid, model_id, max_tokens, max_price
            )
        case DisputePrompt(prompt_id, reason_cid):
            return inference_coordinator.dispute(prompt_id, reason_cid)


def _plain_call(action: PlainAction) -> Call:  # noqa: PLR0912 - one case per action
    match action:
        case RegisterParticipant(peer_id, peer_signature):
            return participant_registry.register(base58.b58decode(peer_id), peer_signature)
        case SubmitHardwareDiff(added, removed):
            nodes = [participant_registry.MLNode(node.node_id, node.models, node.hardware) for node in added]
            return participant_registry.submit_hardware_diff(nodes, removed)
        case UnregisterParticipant(node_ids):
            return participant_registry.unregister(node_ids)
        case UnbondCollateral(amount):
            return participant_registry.request_withdraw_collateral(amount)
        case WithdrawCollateral():
            return participant_registry.withdraw_collateral()
        case CommitPoc(commit):
            cid = cid_to_bytes(commit.vectors_cid)
            return epoch_manager.commit_poc(
                commit.epoch, commit.node_id, commit.model_id, commit.count, commit.root, cid
            )
        case CommitVotes(epoch, bundle_cid):
            return epoch_manager.commit_votes(epoch, cid_to_bytes(bundle_cid))
        case ClaimReward(account, cumulative, proof):
            return reward_distributor.claim(account, cumulative, proof)
        case RequestWithdrawal(payee):
            return payment_channels.request_withdraw(payee)
        case WithdrawFromChannel(payee):
            return payment_channels.withdraw(payee)
        case RedeemVoucher(payer, _, voucher, signature):
            return payment_channels.redeem(
                payer, voucher.cumulative, voucher.receipts_root, *compact_signature(signature)
            )
        case RedeemVouchers(vouchers):
            redemptions = [
                payment_channels.Redemption(
                    entry.payer,
                    entry.voucher.cumulative,
                    entry.voucher.receipts_root,
                    *compact_signature(entry.signature),
                )
                for entry in vouchers
            ]
            return payment_channels.redeem_many(vouchers[0].payee, redemptions)
        case AnswerPrompt(prompt_id, result_cid, prompt_tokens, output_tokens):
            return inference_coordinator.submit_result(prompt_id, result_cid, prompt_tokens, output_tokens)
        case SettlePrompt(prompt_id):
            return inference_coordinator.settle(prompt_id)
        case ReclaimPrompt(prompt_id):
            return inference_coordinator.reclaim(prompt_id)
        case RegisterModel():
            return model_registry.register_model_with_spec(
                action.model_id, action.cid, action.name, action.description, model_spec(action)
            )
        case SetModelSpec():
            return model_registry.set_model_spec(action.model_id, model_spec(action))
        case UpdateModel(model_id, cid):
            return model_registry.update_model(model_id, cid)
        case CalibrateModel(model_id, version, calibration):
            return model_registry.set_calibration(model_id, version, calibration)
        case DeactivateModel(model_id):
            return model_registry.deactivate_model(model_id)


def signing_epoch(action: SignedAction) -> EpochNumber:
    """Return the epoch whose group signed."""
    match action:
        case PostEpochResult(summary):
            return summary.epoch
        case VoidEpochResult(epoch):
            return epoch
        case PunishParticipant(verdict):
            return verdict.epoch


def encode_signed_action(
    action: SignedAction, group: Sequence[tuple[Address, int]], addresses: ContractAddresses
) -> tuple[ContractCall, ...]:
    """Return the transactions of an action that members signed; `group` is the one of `signing_epoch`."""
    match action:
        case PostEpochResult(summary, validator_set, signatures):
            result = epoch_manager.EpochResult(
                epoch=summary.epoch,
                content_cid=cid_to_bytes(summary.content_cid),
                validator_set_hash=summary.validator_set_hash,
                total_weight=summary.total_weight,
                rewards_root=summary.rewards_root,
                reward_total=summary.reward_total,
            )
            bitmap, joined = join_signatures(fewest_signatures(signatures, group), group)
            return (
                _to(addresses, epoch_manager.store_group(validator_set)),
                _to(addresses, epoch_manager.submit_epoch_result(result, bitmap, joined)),
            )
        case VoidEpochResult(epoch, result_digest, signatures):
            bitmap, joined = join_signatures(signatures, group)
            return (_to(addresses, epoch_manager.void_epoch_result(epoch, result_digest, bitmap, joined)),)
        case PunishParticipant(verdict, signatures):
            bitmap, joined = join_signatures(fewest_signatures(signatures, group), group)
            offence = slashing.Offence(verdict.offence.value)
            record = slashing.Verdict(verdict.epoch, verdict.participant, offence, cid_to_bytes(verdict.evidence_cid))
            return (_to(addresses, slashing.punish(record, bitmap, joined)),)


def fewest_signatures(
    signatures: Sequence[tuple[Address, bytes]], group: Sequence[tuple[Address, int]]
) -> tuple[tuple[Address, bytes], ...]:
    """Return the fewest of `signatures` that make a quorum: the heaviest signers, for each one costs gas.

    All of them if they make none.
    """
    weights = dict(group)
    total = sum(weights.values())
    chosen: list[tuple[Address, bytes]] = []
    signed = 0
    for account, signature in sorted(signatures, key=lambda entry: (-weights.get(entry[0], 0), entry[0].lower())):
        chosen.append((account, signature))
        signed += weights.get(account, 0)
        if 3 * signed > 2 * total:
            break
    return tuple(chosen)


def join_signatures(
    signatures: Sequence[tuple[Address, bytes]], group: Sequence[tuple[Address, int]]
) -> tuple[list[int], bytes]:
    """Return the bitmap of signers and their signatures in the order of the group's members."""
    known = dict(signatures)
    bitmap = [0] * -(-len(group) // BITMAP_WORD_BITS)
    joined = b""
    for index, (account, _) in enumerate(group):
        if account in known:
            bitmap[index // BITMAP_WORD_BITS] |= 1 << index % BITMAP_WORD_BITS
            joined += known[account]
    return bitmap, joined


def model_spec(action: RegisterModel | SetModelSpec) -> model_registry.ModelSpec:
    """Return a model's specification as the registry takes it."""
    return model_registry.ModelSpec(
        hf_repo=action.hf_repo,
        hf_commit=action.hf_commit,
        model_args=action.model_args,
        quantization=action.quantization,
        kv_cache_quantization=action.kv_cache_quantization,
        vram_mib=action.vram_mib,
        throughput_per_nonce=action.throughput_per_nonce,
        units_of_compute_per_token=action.units_of_compute_per_token,
        context_length=action.context_length,
        poc_distance_max=action.poc_distance_max,
        gated=action.gated,
        encrypted=action.encrypted,
        proposer=action.proposer,
    )


def _to(addresses: ContractAddresses, call: Call) -> ContractCall:
    """Address a call by its contract's name."""
    recipients = {name: address for address, name in contract_names(addresses).items()}
    return ContractCall(recipients[call.contract], call.calldata)


def _approve(addresses: ContractAddresses, spender: Address) -> ContractCall:
    """Allow one of the network's own contracts, which take only what a call of ours names.

    Without a limit, because intents run side by side: an exact allowance for one would be overwritten by the next.
    """
    return ContractCall(addresses.token, quern_token.approve(spender, UINT256_MAX).calldata)
