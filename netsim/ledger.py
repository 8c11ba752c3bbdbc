"""The simulated chain's state machine: the contracts' rules, in Python, over the same actions and events.

Purpose: let the real services run without an EVM. Detail: one block every `block_seconds` of virtual time; actions are
applied in the order they came, each to events or to a named refusal (the contracts' custom errors). There is no gas
here. Blocks may be replaced by others in which the same happened (`reorganise`); what becomes of transactions that are
not in those is tested against the real EVM.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import trio

from netsim.trace import Trace
from node.protocol.actions import (
    AnswerPrompt,
    CalibrateModel,
    ChainAction,
    ClaimReward,
    CommitPoc,
    CommitVotes,
    DeactivateModel,
    FundChannel,
    PostEpochResult,
    PunishParticipant,
    ReclaimPrompt,
    RedeemVoucher,
    RedeemVouchers,
    RegisterModel,
    RegisterParticipant,
    SetModelSpec,
    SettlePrompt,
    SubmitHardwareDiff,
    SubmitPrompt,
    UpdateModel,
    VoidEpochResult,
)
from node.protocol.calibration import Calibration, calibration_bytes
from node.protocol.chain_state import ChainState, ChannelState
from node.protocol.eip712 import channel_id, epoch_result_digest, objection_digest, verdict_digest, voucher_digest
from node.protocol.events import (
    ChainEvent,
    ChannelFunded,
    CollateralSlashed,
    EpochResultPosted,
    EpochResultVoided,
    EventBody,
    GroupSet,
    GroupStored,
    MLNodeRemoved,
    MLNodeSet,
    ModelCalibrated,
    ModelRecorded,
    ParametersScheduled,
    ParticipantPunished,
    ParticipantRegistered,
    PocCommitted,
    PromptAnswered,
    PromptReclaimed,
    PromptSettled,
    PromptSubmitted,
    RewardClaimed,
    VotesCommitted,
    VoucherRedeemed,
)
from node.protocol.identifiers import Address, BlockNumber, EpochNumber, Hash32, PeerId, TokenAmount
from node.protocol.records import EpochParameters, ModelRecord
from node.protocol.results import unpack_validator_set
from node.protocol.rewards import subsidy, verify_reward_proof
from node.protocol.schedules import ParameterSchedule
from node.protocol.signatures import recover
from node.protocol.stages import Stage, first_block_of, stage_at

CHAIN_ID = 20_000
EPOCH_MANAGER = Address("0x00000000000000000000000000000000000000E1")
PAYMENT_CHANNELS = Address("0x00000000000000000000000000000000000000C1")
SLASHING = Address("0x0000000000000000000000000000000000000051")
BARRED_EPOCHS = 2
"""Of a punished participant, the present epoch first, whatever its offence. There is no collateral to burn here."""
VERDICT_EPOCHS_MAX = 8
ANSWER_BLOCKS = 60
DISPUTE_BLOCKS = 5
NOTICE_EPOCHS = 2
"""As in the EpochManager: a change leaves the present epoch and a whole one untouched."""
SCHEDULED = tuple(item.name for item in fields(ParametersScheduled) if item.name not in ("from_epoch", "from_block"))
DEFAULT_BALANCE = TokenAmount(1_000_000 * 10**18)

FOLDS_KEPT = 8
"""Every node asks for the same few blocks of an epoch, at about the same time."""


def simulated_consent(peer_id: PeerId) -> bytes:
    """Stand-in for an Ed25519 signature: the simulator's peers have no keys."""
    return b"simulated:" + peer_id.encode()


class Refused(Exception):  # noqa: N818 - a contract's revert, not a fault of the simulator
    """The contract would revert; the text is its error's name."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """An action on its way into a block."""

    sender: Address
    action: ChainAction
    settle: Callable[[str | None], None]
    """Called once with None when it was applied, or with the reason it was refused."""


@dataclass(slots=True)
class Ledger:
    """The one chain all simulated nodes share."""

    parameters: EpochParameters
    block_seconds: float
    seed: int
    trace: Trace
    genesis_group: tuple[tuple[Address, int], ...]
    state: ChainState = field(default_factory=ChainState)
    events: list[ChainEvent] = field(default_factory=list)
    block_hashes: list[Hash32] = field(default_factory=list)
    balances: dict[Address, TokenAmount] = field(default_factory=dict)
    gas_price: int = 10**9
    minted: TokenAmount = TokenAmount(0)  # noqa: RUF009 - a NewType call is a constant
    reorganisations: int = 0
    """How often blocks were replaced."""
    _folds: dict[BlockNumber, ChainState] = field(default_factory=dict)
    """States of past blocks that nodes asked for, the newest FOLDS_KEPT."""
    _mempool: list[Transaction] = field(default_factory=list)
    _watchers: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._seal_block([GroupSet(EpochNumber(0), self.genesis_group)])

    @property
    def schedule(self) -> ParameterSchedule:
        """The parameters of all epochs."""
        return ParameterSchedule(self.parameters, self.state.parameter_changes)

    @property
    def height(self) -> BlockNumber:
        """Number of the newest block; the genesis block is 0."""
        return BlockNumber(len(self.block_hashes) - 1)

    def state_at(self, block: BlockNumber) -> ChainState:
        """Return the fold of all events up to and including `block`. Read only: all who ask get the same."""
        if block not in self._folds:
            state = ChainState()
            for event in self.events:
                if event.block_number > block:
                    break
                state.apply(event)
            self._folds[block] = state
            while len(self._folds) > FOLDS_KEPT:
                del self._folds[next(iter(self._folds))]
        return self._folds[block]

    def watch(self, on_block: Callable[[], None]) -> None:
        """Call `on_block` after every block."""
        self._watchers.append(on_block)

    def send(self, transaction: Transaction) -> None:
        """Put a transaction into the next block."""
        self._mempool.append(transaction)

    def is_overtaken(self, action: ChainAction, *, in_a_block: bool = False) -> bool:
        """Whether what members do for all of them, and once, is done, or (unless `in_a_block`) on its way to be."""
        waiting = [] if in_a_block else [transaction.action for transaction in self._mempool]
        match action:
            case PostEpochResult(summary):
                on_its_way = any(isinstance(other, PostEpochResult) and other.summary == summary for other in waiting)
                return on_its_way or summary.epoch in self.state.results
            case VoidEpochResult(epoch, digest):
                result = self.state.results.get(epoch)
                if result is None or epoch_result_digest(result, CHAIN_ID, EPOCH_MANAGER) != digest:
                    return True
                return any(isinstance(other, VoidEpochResult) and other.epoch == epoch for other in waiting)
            case PunishParticipant(verdict):
                on_its_way = any(isinstance(other, PunishParticipant) and other.verdict == verdict for other in waiting)
                return on_its_way or (verdict.epoch, verdict.participant, verdict.offence) in self.state.punished
            case _:
                return False

    async def produce_blocks(self) -> None:
        """Make a block every `block_seconds`, for ever."""
        while True:
            await trio.sleep(self.block_seconds)
            self.mine()

    def mine(self) -> None:
        """Make one block out of everything waiting."""
        taken, self._mempool = self._mempool, []
        bodies: list[EventBody] = []
        settlements: list[tuple[Transaction, str | None]] = []
        block = BlockNumber(self.height + 1)
        for transaction in taken:
            try:
                produced = self._apply(transaction.sender, transaction.action, block)
            except Refused as refusal:
                self.trace.record("refused", transaction.sender, type(transaction.action).__name__, str(refusal))
                settlements.append((transaction, str(refusal)))
                continue
            for body in produced:  # applied at once: the next transaction of the block sees it
                self.state.apply(ChainEvent(block, Hash32(bytes(32)), 0, body))
            bodies.extend(produced)
            settlements.append((transaction, None))
        self._seal_block(bodies, applied=True)
        for transaction, reason in settlements:
            transaction.settle(reason)

    def reorganise(self, blocks: int) -> None:
        """Replace the newest `blocks` blocks by others in which the same happened: only their hashes are new."""
        first = self.height + 1 - blocks
        replaced = [event for event in self.events if event.block_number >= first]
        del self.block_hashes[first:], self.events[len(self.events) - len(replaced) :]
        self.reorganisations += 1
        for number in range(first, first + blocks):
            self._seal_block([event.body for event in replaced if event.block_number == number], applied=True)

    def register_model(self, record: ModelRecord) -> None:
        """Put a model into the registry as its owner would, before the first node starts."""
        self._seal_block([ModelRecorded(record)])

    def calibrate_model(self, calibration: Calibration) -> None:
        """Say how far honest nodes may differ, as the registry's owner would, whenever it is called."""
        data = calibration_bytes(calibration)
        self._seal_block([ModelCalibrated(calibration.model_id, calibration.model_version, data)])

    def schedule_parameters(self, from_epoch: EpochNumber, **changed: int) -> None:
        """Let other parameters hold from an epoch on, as governance would: what is not `changed` stays as it is now.

        Raises Refused as the EpochManager would (its bounds of values are the contract's business).
        """
        if from_epoch < stage_at(self.height, self.schedule).epoch + NOTICE_EPOCHS:
            raise Refused("ChangeOutOfRange")
        present = self.schedule.of_epoch(from_epoch - 1)
        values = {name: getattr(present, name) for name in SCHEDULED} | changed
        replace(present, **values)  # checks it
        block = first_block_of(from_epoch, Stage.SERVE, present)
        self._seal_block([ParametersScheduled(from_epoch, block, **values)])

    def balance(self, account: Address) -> TokenAmount:
        """Tokens of `account`; everyone starts with DEFAULT_BALANCE."""
        return self.balances.get(account, DEFAULT_BALANCE)

    def _seal_block(self, bodies: list[EventBody], *, applied: bool = False) -> None:
        number = BlockNumber(len(self.block_hashes))
        parent = self.block_hashes[-1] if self.block_hashes else Hash32(bytes(32))
        branch = self.reorganisations.to_bytes(8) if self.reorganisations else b""
        block_hash = Hash32(hashlib.sha256(parent + self.seed.to_bytes(8) + number.to_bytes(8) + branch).digest())
        self.block_hashes.append(block_hash)
        for index, body in enumerate(bodies):
            event = ChainEvent(number, block_hash, index, body)
            if not applied:
                self.state.apply(event)
            self.events.append(event)
            self.trace.record("event", int(number), type(body).__name__)
        for on_block in self._watchers:
            on_block()

    def _pay(self, account: Address, amount: int) -> None:
        self.balances[account] = TokenAmount(self.balance(account) + amount)
        if self.balances[account] < 0:
            self.balances[account] = TokenAmount(self.balances[account] - amount)
            raise Refused("ERC20InsufficientBalance")

    def _apply(self, sender: Address, action: ChainAction, block: BlockNumber) -> list[EventBody]:  # noqa: PLR0912
        match action:
            case RegisterParticipant(peer_id, peer_signature):
                consented = peer_signature == simulated_consent(peer_id)
                return [ParticipantRegistered(sender, peer_id, consented)]
            case SubmitHardwareDiff():
                return self._hardware(sender, action)
            case CommitPoc(commit):
                self._require_stage(commit.epoch, block, (Stage.GENERATE, Stage.EXCHANGE))
                if (sender, commit.node_id) in self.state.poc_commits.get(commit.epoch, {}):
                    raise Refused("AlreadyCommitted")
                return [PocCommitted(commit)]
            case CommitVotes(epoch, bundle_cid):
                self._require_stage(epoch, block, (Stage.VALIDATE, Stage.VOTE_EXCHANGE))
                if sender in self.state.vote_bundles.get(epoch, {}):
                    raise Refused("AlreadyVoted")
                if sender not in dict(self.state.group_weights(epoch)):
                    raise Refused("NotAMember")
                return [VotesCommitted(epoch, sender, bundle_cid)]
            case PostEpochResult():
                return self._post_result(sender, action, block)
            case VoidEpochResult():
                return self._void_result(action, block)
            case PunishParticipant():
                return self._punish(action, block)
            case ClaimReward():
                return self._claim(action, block)
            case FundChannel(payee, amount):
                self._pay(sender, -amount)
                channel = self._channel(sender, payee)
                return [ChannelFunded(channel.channel_id, sender, payee, TokenAmount(channel.deposited + amount))]
            case RedeemVoucher():
                return self._redeem(action)
            case RedeemVouchers(vouchers):
                return [event for voucher in vouchers for event in self._redeem(voucher)]
            case SubmitPrompt():
                return self._submit_prompt(sender, action, block)
            case AnswerPrompt():
                return self._answer(sender, action, block)
            case SettlePrompt(prompt_id):
                return self._settle_prompt(prompt_id, block)
            case ReclaimPrompt(prompt_id):
                prompt = self.state.prompts.get(prompt_id)
                if prompt is None or not prompt.is_open or block <= prompt.submitted.deadline_block:
                    raise Refused("NotReclaimable")
                self._pay(prompt.submitted.user, prompt.submitted.max_price)
                return [PromptReclaimed(prompt_id, prompt.submitted.user, prompt.submitted.max_price)]
            case RegisterModel() | SetModelSpec() | UpdateModel() | CalibrateModel() | DeactivateModel():
                raise Refused("OwnableUnauthorizedAccount")
            case _:
                raise Refused(f"{type(action).__name__} is not simulated")

    def _require_stage(self, epoch: int, block: BlockNumber, allowed: tuple[Stage, ...]) -> None:
        position = stage_at(block, self.schedule)
        if position.epoch != epoch or position.stage not in allowed:
            raise Refused(f"WrongStage({position.epoch}, {position.stage.name})")

    def _hardware(self, sender: Address, action: SubmitHardwareDiff) -> list[EventBody]:
        if sender not in self.state.participants:
            raise Refused("NotRegistered")
        unknown = [
            model_id
            for node in action.added
            for model_id in node.models
            if not self.state.is_valid_governance_model(model_id)
        ]
        if unknown:
            raise Refused(f"InvalidModels({unknown})")
        removed: list[EventBody] = [MLNodeRemoved(sender, node_id) for node_id in action.removed]
        return removed + [MLNodeSet(sender, node) for node in action.added]

    def _post_result(self, sender: Address, action: PostEpochResult, block: BlockNumber) -> list[EventBody]:
        summary = action.summary
        self._require_stage(summary.epoch, block, (Stage.FORM,))
        if summary.epoch in self.state.results:
            raise Refused("AlreadyPosted")
        if summary.reward_total > subsidy(summary.epoch, self.parameters):  # nobody adds work coins here
            raise Refused("RewardAboveFunds")
        weights: Mapping[Address, int] = dict(self.state.group_weights(summary.epoch))
        digest = epoch_result_digest(summary, CHAIN_ID, EPOCH_MANAGER)
        if digest in self.state.voided.get(summary.epoch, ()):
            raise Refused("ResultVoid")
        signers = {signer for signer, signature in action.signatures if recover(digest, signature) == signer}
        signed = sum(weights.get(signer, 0) for signer in signers)
        if 3 * signed <= 2 * sum(weights.values()):
            raise Refused("QuorumNotReached")
        next_group = unpack_validator_set(action.validator_set)
        return [GroupStored(summary.validator_set_hash, next_group), EpochResultPosted(summary, sender)]

    def _void_result(self, action: VoidEpochResult, block: BlockNumber) -> list[EventBody]:
        self._require_stage(action.epoch, block, (Stage.FORM, Stage.LOAD))
        summary = self.state.results.get(action.epoch)
        if summary is None or epoch_result_digest(summary, CHAIN_ID, EPOCH_MANAGER) != action.result_digest:
            raise Refused("ResultMismatch")
        digest = objection_digest(action.epoch, action.result_digest, CHAIN_ID, EPOCH_MANAGER)
        weights = dict(self.state.group_weights(action.epoch))
        signers = {signer for signer, signature in action.signatures if recover(digest, signature) == signer}
        if 3 * sum(weights.get(signer, 0) for signer in signers) < sum(weights.values()):
            raise Refused("ObjectionTooWeak")
        return [EpochResultVoided(action.epoch, action.result_digest)]

    def _punish(self, action: PunishParticipant, block: BlockNumber) -> list[EventBody]:
        verdict, current = action.verdict, stage_at(block, self.schedule).epoch
        if not current - VERDICT_EPOCHS_MAX <= verdict.epoch <= current:
            raise Refused("VerdictTooOld")
        if (verdict.epoch, verdict.participant, verdict.offence) in self.state.punished:
            raise Refused("AlreadyPunished")
        digest = verdict_digest(verdict, CHAIN_ID, SLASHING)
        weights = dict(self.state.group_weights(verdict.epoch))
        signers = {signer for signer, signature in action.signatures if recover(digest, signature) == signer}
        if 3 * sum(weights.get(signer, 0) for signer in signers) <= 2 * sum(weights.values()):
            raise Refused("QuorumNotReached")
        nothing, barred_until = TokenAmount(0), EpochNumber(current + BARRED_EPOCHS)
        return [
            CollateralSlashed(verdict.participant, nothing, nothing, nothing, barred_until),
            ParticipantPunished(verdict.epoch, verdict.participant, verdict.offence),
        ]

    def _claim(self, action: ClaimReward, block: BlockNumber) -> list[EventBody]:
        epoch = stage_at(block, self.schedule).epoch
        active = max((number for number in self.state.results if number < epoch), default=None)
        if active is None:
            raise Refused("NothingPosted")
        root = self.state.results[active].rewards_root
        if not verify_reward_proof(root, action.account, action.cumulative, action.proof):
            raise Refused("InvalidProof")
        amount = action.cumulative - self.state.claimed.get(action.account, TokenAmount(0))
        if amount <= 0:
            raise Refused("NothingToClaim")
        self.minted = TokenAmount(self.minted + amount)
        self._pay(action.account, amount)
        return [RewardClaimed(action.account, action.cumulative)]

    def _channel(self, payer: Address, payee: Address) -> ChannelState:
        identity = channel_id(CHAIN_ID, PAYMENT_CHANNELS, payer, payee)
        return self.state.channels.get(identity, ChannelState(identity, payer, payee))

    def _redeem(self, action: RedeemVoucher) -> list[EventBody]:
        channel = self._channel(action.payer, action.payee)
        voucher = action.voucher
        if voucher.channel_id != channel.channel_id:
            raise Refused("WrongChannel")
        if recover(voucher_digest(voucher, CHAIN_ID, PAYMENT_CHANNELS), action.signature) != action.payer:
            raise Refused("InvalidSignature")
        if voucher.cumulative > channel.deposited:
            raise Refused("VoucherAboveDeposit")
        amount = TokenAmount(voucher.cumulative - channel.redeemed)
        if amount <= 0:
            raise Refused("NothingToRedeem")
        self._pay(action.payee, amount)
        return [VoucherRedeemed(channel.channel_id, voucher.cumulative)]

    def _submit_prompt(self, sender: Address, action: SubmitPrompt, block: BlockNumber) -> list[EventBody]:
        model = self.state.models.get(action.model_id)
        if model is None or not model.active:
            raise Refused("ModelNotActive")
        weights = self.state.group_weights(stage_at(block, self.schedule).epoch)
        if not weights:
            raise Refused("EmptyGroup")
        unit_price = self.schedule.at_block(block).unit_price
        price = TokenAmount(action.max_tokens * model.units_of_compute_per_token * unit_price)
        self._pay(sender, -price)
        prompt_id = self.state.prompts_submitted
        drawn = int.from_bytes(hashlib.sha256(self.block_hashes[-1] + prompt_id.to_bytes(32)).digest())
        executor = self._member_at(weights, drawn % sum(weight for _, weight in weights))
        deadline = BlockNumber(block + ANSWER_BLOCKS)
        return [
            PromptSubmitted(
                prompt_id,
                sender,
                model.model_id,
                model.cid,
                action.prompt_cid,
                action.max_tokens,
                price,
                executor,
                deadline,
            )
        ]

    @staticmethod
    def _member_at(weights: tuple[tuple[Address, int], ...], point: int) -> Address:
        for account, weight in weights:
            if point < weight:
                return account
            point -= weight
        raise AssertionError("the point lies within the total weight")

    def _answer(self, sender: Address, action: AnswerPrompt, block: BlockNumber) -> list[EventBody]:
        prompt = self.state.prompts.get(action.prompt_id)
        if prompt is None or not prompt.is_open or block > prompt.submitted.deadline_block:
            raise Refused("PromptNotOpen")
        submitted = prompt.submitted
        late = block > submitted.deadline_block - ANSWER_BLOCKS // 2
        members = dict(self.state.group_weights(stage_at(block, self.schedule).epoch))
        if sender != submitted.executor and not (late and sender in members):
            raise Refused("NotTheExecutor")
        units = self.state.models[submitted.model_id].units_of_compute_per_token
        tokens = action.prompt_tokens + action.output_tokens
        price = TokenAmount(min(tokens * units * self.schedule.at_block(block).unit_price, submitted.max_price))
        return [
            PromptAnswered(
                action.prompt_id,
                sender,
                action.result_cid,
                action.prompt_tokens,
                action.output_tokens,
                price,
                BlockNumber(block + DISPUTE_BLOCKS),
            )
        ]

    def _settle_prompt(self, prompt_id: int, block: BlockNumber) -> list[EventBody]:
        prompt = self.state.prompts.get(prompt_id)
        if prompt is None or prompt.answered is None or prompt.settles_after is None:
            raise Refused("WrongStatus")
        if block <= prompt.settles_after:
            raise Refused("DeadlineNotReached")
        answered = prompt.answered
        refunded = TokenAmount(prompt.submitted.max_price - answered.price)
        self._pay(answered.executor, answered.price)
        self._pay(prompt.submitted.user, refunded)
        return [PromptSettled(prompt_id, answered.executor, answered.price, refunded)]
