"""Between the protocol's records and the contracts' calls and logs. Pure: nothing here talks to a chain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import base58
from eth_utils.address import to_checksum_address

from contracts.codec import decode_log, encode_call
from node.chain.addresses import ContractAddresses
from node.protocol.actions import (
    AnswerPrompt,
    ChainAction,
    ClaimReward,
    CommitPoc,
    CommitVotes,
    DeactivateModel,
    FundChannel,
    PostEpochResult,
    ReclaimPrompt,
    RedeemVoucher,
    RegisterModel,
    RegisterParticipant,
    SubmitHardwareDiff,
    SubmitPrompt,
    UpdateModel,
)
from node.protocol.cids import cid_from_bytes, cid_to_bytes
from node.protocol.events import (
    ChannelFunded,
    ChannelWithdrawn,
    EpochResultPosted,
    EventBody,
    GroupSet,
    MLNodeRemoved,
    MLNodeSet,
    ModelRecorded,
    ParticipantRegistered,
    PocCommitted,
    PromptAnswered,
    PromptReclaimed,
    PromptSubmitted,
    RewardClaimed,
    VotesCommitted,
    VoucherRedeemed,
    WithdrawRequested,
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
    arguments: tuple[object, ...]
    match action:
        case RegisterParticipant(peer_id, peer_signature):
            arguments = (base58.b58decode(peer_id), peer_signature)
            return (_call(addresses.participant_registry, "ParticipantRegistry", "register", arguments),)
        case SubmitHardwareDiff(added, removed):
            nodes = [(node.node_id, list(node.models), node.hardware) for node in added]
            arguments = (nodes, list(removed))
            return (_call(addresses.participant_registry, "ParticipantRegistry", "submitHardwareDiff", arguments),)
        case CommitPoc(commit):
            arguments = (
                commit.epoch,
                commit.node_id,
                commit.model_id,
                commit.count,
                commit.root,
                cid_to_bytes(commit.vectors_cid),
            )
            return (_call(addresses.epoch_manager, "EpochManager", "commitPoc", arguments),)
        case CommitVotes(epoch, bundle_cid):
            return (_call(addresses.epoch_manager, "EpochManager", "commitVotes", (epoch, cid_to_bytes(bundle_cid))),)
        case PostEpochResult():
            raise ValueError("an epoch result needs the signing group: use encode_epoch_result")
        case ClaimReward(account, cumulative, proof):
            arguments = (account, cumulative, list(proof))
            return (_call(addresses.reward_distributor, "RewardDistributor", "claim", arguments),)
        case FundChannel(payee, amount):
            return (
                _approve(addresses, addresses.payment_channels),
                _call(addresses.payment_channels, "PaymentChannels", "deposit", (payee, amount)),
            )
        case RedeemVoucher(payer, payee, voucher, signature):
            arguments = (payer, payee, voucher.cumulative, voucher.receipts_root, signature)
            return (_call(addresses.payment_channels, "PaymentChannels", "redeem", arguments),)
        case SubmitPrompt(prompt_cid, model_id, max_tokens):
            function = "submitPrompt(string,string,uint32)"
            arguments = (prompt_cid, model_id, max_tokens)
            return (
                _approve(addresses, addresses.inference_coordinator),
                _call(addresses.inference_coordinator, "InferenceCoordinator", function, arguments),
            )
        case AnswerPrompt(prompt_id, result_cid, prompt_tokens, output_tokens):
            arguments = (prompt_id, result_cid, prompt_tokens, output_tokens)
            return (_call(addresses.inference_coordinator, "InferenceCoordinator", "submitResult", arguments),)
        case ReclaimPrompt(prompt_id):
            return (_call(addresses.inference_coordinator, "InferenceCoordinator", "reclaim", (prompt_id,)),)
        case RegisterModel():
            arguments = (action.model_id, action.cid, action.name, action.description, _spec(action))
            return (_call(addresses.model_registry, "ModelRegistry", "registerModelWithSpec", arguments),)
        case UpdateModel(model_id, cid):
            return (_call(addresses.model_registry, "ModelRegistry", "updateModel", (model_id, cid)),)
        case DeactivateModel(model_id):
            return (_call(addresses.model_registry, "ModelRegistry", "deactivateModel", (model_id,)),)


def encode_epoch_result(
    action: PostEpochResult, group: Sequence[tuple[Address, int]], addresses: ContractAddresses
) -> tuple[ContractCall, ...]:
    """Return the transaction that posts a result; `group` is the one in charge, whose members' bits are set."""
    summary = action.summary
    known = dict(action.signatures)
    bitmap = [0] * -(-len(group) // BITMAP_WORD_BITS)
    signatures = b""
    for index, (account, _) in enumerate(group):
        if account in known:
            bitmap[index // BITMAP_WORD_BITS] |= 1 << index % BITMAP_WORD_BITS
            signatures += known[account]
    result = (
        summary.epoch,
        cid_to_bytes(summary.content_cid),
        summary.validator_set_hash,
        summary.total_weight,
        summary.rewards_root,
        summary.reward_total,
    )
    arguments = (result, action.validator_set, bitmap, signatures)
    return (_call(addresses.epoch_manager, "EpochManager", "submitEpochResult", arguments),)


def contract_names(addresses: ContractAddresses) -> dict[Address, str]:
    """Return which contract's events each watched address emits."""
    return {
        addresses.model_registry: "ModelRegistry",
        addresses.participant_registry: "ParticipantRegistry",
        addresses.epoch_manager: "EpochManager",
        addresses.reward_distributor: "RewardDistributor",
        addresses.payment_channels: "PaymentChannels",
        addresses.inference_coordinator: "InferenceCoordinator",
    }


def decode_event(contract: str, topics: Sequence[bytes], data: bytes) -> EventBody | None:
    """Return what a log says, or None for an event the daemon does not follow. Raises ValueError if malformed."""
    log = decode_log(contract, topics, data)
    decoder = _DECODERS.get(log.name)
    if decoder is None:
        return None
    try:
        body: EventBody = decoder(log.arguments)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{log.name}: {error!r}") from error
    return body


def decode_parameters(values: Sequence[Any]) -> EpochParameters:
    """Return the record of `EpochManager.parameters()`."""
    (
        genesis_block,
        epoch_blocks,
        generate,
        exchange,
        validate,
        vote_exchange,
        form,
        load,
        sample,
        reject,
        unit_price,
        subsidy,
        halving,
    ) = values
    return EpochParameters(
        genesis_block=BlockNumber(genesis_block),
        epoch_blocks=epoch_blocks,
        generate_offset=generate,
        exchange_offset=exchange,
        validate_offset=validate,
        vote_exchange_offset=vote_exchange,
        form_offset=form,
        load_offset=load,
        poc_sample_size=sample,
        poc_reject_mismatches=reject,
        unit_price=TokenAmount(unit_price),
        initial_subsidy=TokenAmount(subsidy),
        halving_epochs=halving,
    )


def encode_parameters(parameters: EpochParameters) -> tuple[int, ...]:
    """Return `EpochManager.Parameters` for its constructor."""
    return (
        parameters.genesis_block,
        parameters.epoch_blocks,
        parameters.generate_offset,
        parameters.exchange_offset,
        parameters.validate_offset,
        parameters.vote_exchange_offset,
        parameters.form_offset,
        parameters.load_offset,
        parameters.poc_sample_size,
        parameters.poc_reject_mismatches,
        parameters.unit_price,
        parameters.initial_subsidy,
        parameters.halving_epochs,
    )


def _call(recipient: Address, contract: str, function: str, arguments: Sequence[object]) -> ContractCall:
    return ContractCall(recipient, encode_call(contract, function, arguments))


def _approve(addresses: ContractAddresses, spender: Address) -> ContractCall:
    """Allow one of the network's own contracts, which take only what a call of ours names.

    Without a limit, because intents run side by side: an exact allowance for one would be overwritten by the next.
    """
    return _call(addresses.token, "QuernToken", "approve", (spender, UINT256_MAX))


def _spec(action: RegisterModel) -> tuple[object, ...]:
    return (
        action.hf_repo,
        action.hf_commit,
        list(action.model_args),
        action.vram_mib,
        action.throughput_per_nonce,
        action.units_of_compute_per_token,
        action.context_length,
        action.poc_distance_max,
    )


def _address(text: str) -> Address:
    return Address(to_checksum_address(text))


def _model_recorded(arguments: Mapping[str, Any]) -> ModelRecorded:
    model_id, cid, name, description, active, version, _owner, spec = arguments["info"]
    hf_repo, hf_commit, model_args, vram_mib, throughput, units, context_length, distance = spec
    return ModelRecorded(
        ModelRecord(
            model_id=ModelId(model_id),
            cid=Cid(cid),
            name=name,
            description=description,
            active=active,
            version=version,
            hf_repo=hf_repo,
            hf_commit=hf_commit,
            model_args=tuple(model_args),
            vram_mib=vram_mib,
            throughput_per_nonce=throughput,
            units_of_compute_per_token=units,
            context_length=context_length,
            poc_distance_max=distance,
        )
    )


def _node_set(arguments: Mapping[str, Any]) -> MLNodeSet:
    node_id, models, hardware = arguments["node"]
    node = MLNodeRegistration(NodeId(node_id), tuple(ModelId(model_id) for model_id in models), hardware)
    return MLNodeSet(_address(arguments["participant"]), node)


def _poc_committed(arguments: Mapping[str, Any]) -> PocCommitted:
    return PocCommitted(
        PocCommit(
            epoch=EpochNumber(arguments["epoch"]),
            participant=_address(arguments["participant"]),
            node_id=NodeId(arguments["nodeId"]),
            model_id=ModelId(arguments["modelId"]),
            count=arguments["count"],
            root=Hash32(arguments["root"]),
            vectors_cid=cid_from_bytes(arguments["vectorsCid"]),
        )
    )


def _result_posted(arguments: Mapping[str, Any]) -> EpochResultPosted:
    summary = EpochResultSummary(
        epoch=EpochNumber(arguments["epoch"]),
        content_cid=cid_from_bytes(arguments["contentCid"]),
        validator_set_hash=Hash32(arguments["validatorSetHash"]),
        total_weight=arguments["totalWeight"],
        rewards_root=Hash32(arguments["rewardsRoot"]),
        reward_total=TokenAmount(arguments["rewardTotal"]),
    )
    return EpochResultPosted(summary, _address(arguments["poster"]))


def _channel(arguments: Mapping[str, Any]) -> tuple[Hash32, Address, Address]:
    return Hash32(arguments["channelId"]), _address(arguments["payer"]), _address(arguments["payee"])


def _prompt_submitted(arguments: Mapping[str, Any]) -> PromptSubmitted:
    return PromptSubmitted(
        prompt_id=arguments["promptId"],
        user=_address(arguments["user"]),
        model_id=ModelId(arguments["modelId"]),
        model_cid=Cid(arguments["modelCID"]),
        prompt_cid=Cid(arguments["promptCID"]),
        max_tokens=arguments["maxTokens"],
        max_price=TokenAmount(arguments["maxPrice"]),
        executor=_address(arguments["executor"]),
        deadline_block=BlockNumber(arguments["deadlineBlock"]),
    )


_DECODERS: dict[str, Any] = {
    "ModelRecorded": _model_recorded,
    "ParticipantRegistered": lambda a: ParticipantRegistered(
        _address(a["participant"]), PeerId(base58.b58encode(a["peerId"]).decode()), a["peerSignature"]
    ),
    "MLNodeSet": _node_set,
    "MLNodeRemoved": lambda a: MLNodeRemoved(_address(a["participant"]), NodeId(a["nodeId"])),
    "PocCommitted": _poc_committed,
    "VotesCommitted": lambda a: VotesCommitted(
        EpochNumber(a["epoch"]), _address(a["validator"]), cid_from_bytes(a["bundleCid"])
    ),
    "GroupSet": lambda a: GroupSet(EpochNumber(a["epoch"]), unpack_validator_set(a["validatorSet"])),
    "EpochResultPosted": _result_posted,
    "RewardClaimed": lambda a: RewardClaimed(
        _address(a["account"]), TokenAmount(a["amount"]), TokenAmount(a["cumulative"])
    ),
    "ChannelFunded": lambda a: ChannelFunded(*_channel(a), TokenAmount(a["deposited"])),
    "VoucherRedeemed": lambda a: VoucherRedeemed(*_channel(a), TokenAmount(a["amount"]), TokenAmount(a["cumulative"])),
    "WithdrawRequested": lambda a: WithdrawRequested(*_channel(a), a["unlockTime"]),
    "ChannelWithdrawn": lambda a: ChannelWithdrawn(*_channel(a), TokenAmount(a["deposited"])),
    "PromptSubmitted": _prompt_submitted,
    "PromptAnswered": lambda a: PromptAnswered(
        a["promptId"],
        _address(a["executor"]),
        Cid(a["resultCID"]),
        a["promptTokens"],
        a["outputTokens"],
        TokenAmount(a["price"]),
    ),
    "PromptReclaimed": lambda a: PromptReclaimed(a["promptId"], _address(a["user"]), TokenAmount(a["amount"])),
}
