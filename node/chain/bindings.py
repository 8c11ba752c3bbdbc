"""Between the protocol's records and the contracts' calls and logs. Pure: nothing here talks to a chain."""

from collections.abc import Sequence
from dataclasses import dataclass

import base58

from contracts import bindings
from contracts.binding_base import Call, ContractEvent
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
from node.chain.addresses import ContractAddresses
from node.protocol.actions import (
    AddWorkCoins,
    AnswerPrompt,
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
    RegisterModel,
    RegisterParticipant,
    RequestWithdrawal,
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
from node.protocol.cids import cid_from_bytes, cid_to_bytes
from node.protocol.events import (
    ChannelFunded,
    ChannelWithdrawn,
    CollateralDeposited,
    CollateralSlashed,
    CollateralUnbonding,
    CollateralWithdrawn,
    EpochResultPosted,
    EpochResultVoided,
    EventBody,
    GroupSet,
    GroupStored,
    MinCollateralSet,
    MLNodeRemoved,
    MLNodeSet,
    ModelRecorded,
    ParticipantLeft,
    ParticipantRegistered,
    PocCommitted,
    PromptAnswered,
    PromptDisputed,
    PromptReclaimed,
    PromptSettled,
    PromptSubmitted,
    RewardClaimed,
    VotesCommitted,
    VoucherRedeemed,
    WithdrawRequested,
    WorkCoinsAdded,
)
from node.protocol.identifiers import (
    Address,
    BlockNumber,
    Cid,
    EpochNumber,
    Hash32,
    ModelId,
    NodeId,
    PeerId,
    TokenAmount,
)
from node.protocol.peer_binding import peer_binding, peer_consents
from node.protocol.records import EpochParameters, EpochResultSummary, MLNodeRegistration, ModelRecord, PocCommit
from node.protocol.results import unpack_validator_set

BITMAP_WORD_BITS = 256
UINT256_MAX = 2**256 - 1


@dataclass(frozen=True, slots=True)
class ContractCall:
    """One transaction: where to and with what."""

    recipient: Address
    calldata: bytes


def encode_action(action: ChainAction, addresses: ContractAddresses) -> tuple[ContractCall, ...]:  # noqa: PLR0912 - one case per action
    """Return the transactions of an action, in the order in which they must succeed."""
    match action:
        case RegisterParticipant(peer_id, peer_signature):
            call = participant_registry.register(base58.b58decode(peer_id), peer_signature)
        case SubmitHardwareDiff(added, removed):
            nodes = [participant_registry.MLNode(node.node_id, node.models, node.hardware) for node in added]
            call = participant_registry.submit_hardware_diff(nodes, removed)
        case UnregisterParticipant(nodes):
            call = participant_registry.unregister(nodes)
        case DepositCollateral(amount):
            registry = addresses.participant_registry
            return (
                _approve(addresses, registry),
                ContractCall(registry, participant_registry.deposit_collateral(amount).calldata),
            )
        case UnbondCollateral(amount):
            call = participant_registry.request_withdraw_collateral(amount)
        case WithdrawCollateral():
            call = participant_registry.withdraw_collateral()
        case CommitPoc(commit):
            cid = cid_to_bytes(commit.vectors_cid)
            call = epoch_manager.commit_poc(
                commit.epoch, commit.node_id, commit.model_id, commit.count, commit.root, cid
            )
        case CommitVotes(epoch, bundle_cid):
            call = epoch_manager.commit_votes(epoch, cid_to_bytes(bundle_cid))
        case PostEpochResult() | VoidEpochResult() | PunishParticipant():
            raise ValueError("signatures of members need the signing group: use encode_signed_action")
        case AddWorkCoins(amount):
            distributor = addresses.reward_distributor
            return (
                _approve(addresses, distributor),
                ContractCall(distributor, reward_distributor.add_work_coins(amount).calldata),
            )
        case ClaimReward(account, cumulative, proof):
            call = reward_distributor.claim(account, cumulative, proof)
        case FundChannel(payee, amount):
            channels = addresses.payment_channels
            return (
                _approve(addresses, channels),
                ContractCall(channels, payment_channels.deposit(payee, amount).calldata),
            )
        case RequestWithdrawal(payee):
            call = payment_channels.request_withdraw(payee)
        case WithdrawFromChannel(payee):
            call = payment_channels.withdraw(payee)
        case RedeemVoucher(payer, payee, voucher, signature):
            call = payment_channels.redeem(payer, payee, voucher.cumulative, voucher.receipts_root, signature)
        case SubmitPrompt(prompt_cid, model_id, max_tokens, max_price):
            coordinator = addresses.inference_coordinator
            submit = inference_coordinator.submit_prompt_with_max_tokens_and_price_limit(
                prompt_cid, model_id, max_tokens, max_price
            )
            return (_approve(addresses, coordinator), ContractCall(coordinator, submit.calldata))
        case AnswerPrompt(prompt_id, result_cid, prompt_tokens, output_tokens):
            call = inference_coordinator.submit_result(prompt_id, result_cid, prompt_tokens, output_tokens)
        case DisputePrompt(prompt_id, reason_cid):
            coordinator = addresses.inference_coordinator
            dispute = inference_coordinator.dispute(prompt_id, reason_cid)
            return (_approve(addresses, coordinator), ContractCall(coordinator, dispute.calldata))
        case SettlePrompt(prompt_id):
            call = inference_coordinator.settle(prompt_id)
        case ReclaimPrompt(prompt_id):
            call = inference_coordinator.reclaim(prompt_id)
        case RegisterModel():
            call = model_registry.register_model_with_spec(
                action.model_id, action.cid, action.name, action.description, model_spec(action)
            )
        case UpdateModel(model_id, cid):
            call = model_registry.update_model(model_id, cid)
        case DeactivateModel(model_id):
            call = model_registry.deactivate_model(model_id)
    return (_to(addresses, call),)


SignedAction = PostEpochResult | VoidEpochResult | PunishParticipant
"""Actions that carry signatures of members of a group."""


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


def contract_names(addresses: ContractAddresses) -> dict[Address, str]:
    """Return which contract's events each watched address emits."""
    return {
        addresses.model_registry: model_registry.CONTRACT,
        addresses.participant_registry: participant_registry.CONTRACT,
        addresses.epoch_manager: epoch_manager.CONTRACT,
        addresses.reward_distributor: reward_distributor.CONTRACT,
        addresses.payment_channels: payment_channels.CONTRACT,
        addresses.inference_coordinator: inference_coordinator.CONTRACT,
    }


class EventDecoder:
    """Turns logs of the network's contracts into the protocol's events."""

    def __init__(self, chain_id: int, epoch_manager_address: Address) -> None:
        """Chain and EpochManager are what peer bindings are made for."""
        self._chain_id = chain_id
        self._epoch_manager = epoch_manager_address

    def decode(self, contract: str, topics: Sequence[bytes], data: bytes) -> EventBody | None:
        """Return what a log says, or None for an event the daemon does not follow. Raises ValueError if malformed."""
        event = bindings.decode_event(contract, topics, data)
        if isinstance(event, participant_registry.ParticipantRegistered):
            binding = peer_binding(self._chain_id, self._epoch_manager, Address(event.participant))
            consented = peer_consents(event.peer_id, binding, event.peer_signature)
            peer_id = PeerId(base58.b58encode(event.peer_id).decode())
            return ParticipantRegistered(Address(event.participant), peer_id, consented)
        return _translate(event)


def _translate(event: ContractEvent) -> EventBody | None:  # noqa: PLR0912 - one case per event
    match event:
        case model_registry.ModelRecorded():
            return ModelRecorded(_model_record(event.info))
        case participant_registry.ParticipantLeft():
            return ParticipantLeft(Address(event.participant))
        case participant_registry.MLNodeSet():
            models = tuple(ModelId(model_id) for model_id in event.node.models)
            node = MLNodeRegistration(NodeId(event.node.node_id), models, event.node.hardware)
            return MLNodeSet(Address(event.participant), node)
        case participant_registry.MLNodeRemoved():
            return MLNodeRemoved(Address(event.participant), NodeId(event.node_id))
        case participant_registry.CollateralDeposited():
            return CollateralDeposited(Address(event.participant), TokenAmount(event.deposited))
        case participant_registry.CollateralUnbonding():
            return CollateralUnbonding(
                Address(event.participant),
                TokenAmount(event.deposited),
                TokenAmount(event.unbonding),
                event.available_at,
            )
        case participant_registry.CollateralWithdrawn():
            return CollateralWithdrawn(Address(event.participant), TokenAmount(event.amount))
        case participant_registry.CollateralSlashed():
            return CollateralSlashed(
                Address(event.participant),
                TokenAmount(event.amount),
                TokenAmount(event.deposited),
                TokenAmount(event.unbonding),
                event.barred_until,
            )
        case participant_registry.MinCollateralSet():
            return MinCollateralSet(TokenAmount(event.min_collateral))
        case epoch_manager.PocCommitted():
            return PocCommitted(
                PocCommit(
                    epoch=EpochNumber(event.epoch),
                    participant=Address(event.participant),
                    node_id=NodeId(event.node_id),
                    model_id=ModelId(event.model_id),
                    count=event.count,
                    root=Hash32(event.root),
                    vectors_cid=cid_from_bytes(event.vectors_cid),
                )
            )
        case epoch_manager.VotesCommitted():
            return VotesCommitted(EpochNumber(event.epoch), Address(event.validator), cid_from_bytes(event.bundle_cid))
        case epoch_manager.GroupSet():
            return GroupSet(EpochNumber(event.epoch), unpack_validator_set(event.validator_set))
        case epoch_manager.GroupStored():
            return GroupStored(Hash32(event.validator_set_hash), unpack_validator_set(event.validator_set))
        case epoch_manager.EpochResultPosted():
            summary = EpochResultSummary(
                epoch=EpochNumber(event.epoch),
                content_cid=cid_from_bytes(event.content_cid),
                validator_set_hash=Hash32(event.validator_set_hash),
                total_weight=event.total_weight,
                rewards_root=Hash32(event.rewards_root),
                reward_total=TokenAmount(event.reward_total),
            )
            return EpochResultPosted(summary, Address(event.poster))
        case epoch_manager.EpochResultVoided():
            return EpochResultVoided(EpochNumber(event.epoch), Hash32(event.result_digest))
        case reward_distributor.WorkCoinsAdded():
            return WorkCoinsAdded(Address(event.sender), TokenAmount(event.amount))
        case reward_distributor.RewardClaimed():
            return RewardClaimed(Address(event.account), TokenAmount(event.amount), TokenAmount(event.cumulative))
        case payment_channels.ChannelFunded():
            return ChannelFunded(*_channel(event), TokenAmount(event.deposited))
        case payment_channels.VoucherRedeemed():
            return VoucherRedeemed(*_channel(event), TokenAmount(event.amount), TokenAmount(event.cumulative))
        case payment_channels.WithdrawRequested():
            return WithdrawRequested(*_channel(event), event.unlock_time)
        case payment_channels.ChannelWithdrawn():
            return ChannelWithdrawn(*_channel(event), TokenAmount(event.deposited))
        case inference_coordinator.PromptSubmitted():
            return PromptSubmitted(
                prompt_id=event.prompt_id,
                user=Address(event.user),
                model_id=ModelId(event.model_id),
                model_cid=Cid(event.model_cid),
                prompt_cid=Cid(event.prompt_cid),
                max_tokens=event.max_tokens,
                max_price=TokenAmount(event.max_price),
                executor=Address(event.executor),
                deadline_block=BlockNumber(event.deadline_block),
            )
        case inference_coordinator.PromptAnswered():
            return PromptAnswered(
                prompt_id=event.prompt_id,
                executor=Address(event.executor),
                result_cid=Cid(event.result_cid),
                prompt_tokens=event.prompt_tokens,
                output_tokens=event.output_tokens,
                price=TokenAmount(event.price),
                dispute_until=BlockNumber(event.dispute_until),
            )
        case inference_coordinator.PromptDisputed():
            return PromptDisputed(
                event.prompt_id, Address(event.user), Cid(event.reason_cid), BlockNumber(event.verdict_until)
            )
        case inference_coordinator.PromptSettled():
            return PromptSettled(
                event.prompt_id, Address(event.executor), TokenAmount(event.paid), TokenAmount(event.refunded)
            )
        case inference_coordinator.PromptReclaimed():
            return PromptReclaimed(event.prompt_id, Address(event.user), TokenAmount(event.amount))
        case _:
            return None


def from_parameters(values: epoch_manager.Parameters) -> EpochParameters:
    """Return the record of `EpochManager.parameters()`. Raises ValueError if it breaks the protocol's rules."""
    return EpochParameters(
        genesis_block=BlockNumber(values.genesis_block),
        epoch_blocks=values.epoch_blocks,
        generate_offset=values.generate_offset,
        exchange_offset=values.exchange_offset,
        validate_offset=values.validate_offset,
        vote_exchange_offset=values.vote_exchange_offset,
        form_offset=values.form_offset,
        load_offset=values.load_offset,
        poc_sample_size=values.poc_sample_size,
        poc_reject_mismatches=values.poc_reject_mismatches,
        unit_price=TokenAmount(values.unit_price),
        initial_subsidy=TokenAmount(values.initial_subsidy),
        halving_epochs=values.halving_epochs,
    )


def to_parameters(parameters: EpochParameters) -> epoch_manager.Parameters:
    """Return `EpochManager.Parameters` for its constructor."""
    return epoch_manager.Parameters(
        genesis_block=parameters.genesis_block,
        epoch_blocks=parameters.epoch_blocks,
        generate_offset=parameters.generate_offset,
        exchange_offset=parameters.exchange_offset,
        validate_offset=parameters.validate_offset,
        vote_exchange_offset=parameters.vote_exchange_offset,
        form_offset=parameters.form_offset,
        load_offset=parameters.load_offset,
        poc_sample_size=parameters.poc_sample_size,
        poc_reject_mismatches=parameters.poc_reject_mismatches,
        unit_price=parameters.unit_price,
        initial_subsidy=parameters.initial_subsidy,
        halving_epochs=parameters.halving_epochs,
    )


def model_spec(action: RegisterModel) -> model_registry.ModelSpec:
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


def _model_record(info: model_registry.ModelInfo) -> ModelRecord:
    spec = info.spec
    return ModelRecord(
        model_id=ModelId(info.model_id),
        cid=Cid(info.cid),
        name=info.name,
        description=info.description,
        active=info.active,
        version=info.version,
        hf_repo=spec.hf_repo,
        hf_commit=spec.hf_commit,
        model_args=tuple(spec.model_args),
        vram_mib=spec.vram_mib,
        throughput_per_nonce=spec.throughput_per_nonce,
        units_of_compute_per_token=spec.units_of_compute_per_token,
        context_length=spec.context_length,
        poc_distance_max=spec.poc_distance_max,
        quantization=spec.quantization,
        kv_cache_quantization=spec.kv_cache_quantization,
        gated=spec.gated,
        encrypted=spec.encrypted,
        proposer=Address(spec.proposer),
    )


def _to(addresses: ContractAddresses, call: Call) -> ContractCall:
    """Address a call by its contract's name."""
    recipients = {name: address for address, name in contract_names(addresses).items()}
    recipients[slashing.CONTRACT] = addresses.slashing
    return ContractCall(recipients[call.contract], call.calldata)


def _approve(addresses: ContractAddresses, spender: Address) -> ContractCall:
    """Allow one of the network's own contracts, which take only what a call of ours names.

    Without a limit, because intents run side by side: an exact allowance for one would be overwritten by the next.
    """
    return ContractCall(addresses.token, quern_token.approve(spender, UINT256_MAX).calldata)


_ChannelEvent = (
    payment_channels.ChannelFunded
    | payment_channels.VoucherRedeemed
    | payment_channels.WithdrawRequested
    | payment_channels.ChannelWithdrawn
)


def _channel(event: _ChannelEvent) -> tuple[Hash32, Address, Address]:
    return Hash32(event.channel_id), Address(event.payer), Address(event.payee)
