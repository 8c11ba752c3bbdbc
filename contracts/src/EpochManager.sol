// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {CommitWindows} from "./CommitWindows.sol";
import {EpochSegments} from "./EpochSegments.sol";
import {ValidatorSets} from "./ValidatorSets.sol";
import {IEpochManager} from "./interfaces/IEpochManager.sol";
import {IParticipantRegistry} from "./interfaces/IParticipantRegistry.sol";
import {IQuorumVerifier} from "./interfaces/IQuorumVerifier.sol";
import {IRewardDistributor} from "./interfaces/IRewardDistributor.sol";

/// @title Epochs: stages by block number, commitments of proofs and votes, results by weighted quorum.
/// @notice The chain holds one hash per node and epoch and the weights of the group in charge. Everything else is
/// content that daemons exchange and that these hashes commit to. A result is posted in FORM; until the epoch's end,
/// members with a third of the weight may void it by their objection: more than two thirds signed it, so whoever is in
/// both sets is known by name. If an epoch ends without a result, its group carries on and nothing is paid.
/// The owner may change stages, sampling and price for epochs to come, with an epoch's notice; it can touch no epoch that
/// is present or past, no commitment, no result and no money.
contract EpochManager is IEpochManager, EIP712, Ownable2Step {
    using CommitWindows for uint256;
    using EpochSegments for uint256;
    using ValidatorSets for bytes;

    /// @notice What a network begins with. genesisBlock, initialSubsidy and halvingEpochs are fixed for the life of this
    /// contract; the rest until `scheduleParameters` changes it. Offsets count blocks from an epoch's first block and increase
    /// strictly: 0 < generate < exchange < validate < voteExchange < form < load < epochBlocks. Amounts are in units
    /// of 10^-18.
    struct Parameters {
        uint64 genesisBlock;
        uint64 epochBlocks;
        uint64 generateOffset;
        uint64 exchangeOffset;
        uint64 validateOffset;
        uint64 voteExchangeOffset;
        uint64 formOffset;
        uint64 loadOffset;
        uint32 pocSampleSize;
        uint32 pocRejectMismatches;
        uint256 unitPrice;
        uint256 initialSubsidy;
        uint32 halvingEpochs;
    }

    /// @notice What may change between epochs, in the order and units of Parameters.
    struct Schedule {
        uint64 epochBlocks;
        uint64 generateOffset;
        uint64 exchangeOffset;
        uint64 validateOffset;
        uint64 voteExchangeOffset;
        uint64 formOffset;
        uint64 loadOffset;
        uint32 pocSampleSize;
        uint32 pocRejectMismatches;
        uint256 unitPrice;
    }

    /// @dev One word: what of a segment's parameters is no matter of blocks.
    struct Rules {
        uint32 pocSampleSize;
        uint32 pocRejectMismatches;
        uint128 unitPrice;
    }

    /// @dev A segment that ended.
    struct PastSegment {
        uint256 segment;
        Rules rules;
    }

    /// @notice What a quorum signs: the content of the result by CID, and what the chain itself needs of it.
    struct EpochResult {
        uint64 epoch;
        bytes contentCid;
        bytes32 validatorSetHash;
        uint256 totalWeight;
        bytes32 rewardsRoot;
        uint256 rewardTotal;
    }

    /// @dev One word. Number of groups that were ever set; and, plus one so that zero is none, the epochs of the newest
    /// accepted result and of the newest that was voided.
    struct Progress {
        uint64 groupCount;
        uint64 resultEpochPlusOne;
        uint64 voidEpochPlusOne;
    }

    bytes32 public constant OBJECTION_TYPEHASH = keccak256("Objection(uint64 epoch,bytes32 resultDigest)");
    bytes32 public constant EPOCH_RESULT_TYPEHASH = keccak256(
        "EpochResult(uint64 epoch,bytes contentCid,bytes32 validatorSetHash,uint256 totalWeight,"
        "bytes32 rewardsRoot,uint256 rewardTotal)"
    );
    /// @dev A binary CIDv1 of a 32-byte hash has 36 bytes; leaves room for longer hashes.
    uint256 public constant CID_LENGTH_MAX = 64;
    /// @dev With 64 nodes for each of 512 members the sum of weights stays below 2^64 (see ValidatorSets).
    uint64 public constant NONCES_MAX = type(uint32).max;
    /// @dev More than any look-up needs: verdicts name groups of at most Slashing.VERDICT_EPOCHS_MAX epochs ago.
    uint256 public constant GROUPS_KEPT = 16;
    /// @notice A change leaves the present epoch and one whole one untouched: everybody knows of it before it holds.
    uint64 public constant NOTICE_EPOCHS = 2;
    /// @dev Farther ahead is a mistake: no other change could be made until then.
    uint64 public constant AHEAD_EPOCHS_MAX = 10_000;
    /// @notice An epoch stays within a half and the double of its length at genesis: windows of other contracts (disputes,
    /// verdicts, unbonding) were chosen for that one.
    uint64 public constant LENGTH_FACTOR_MAX = 2;
    /// @dev Votes have a line for each nonce of a sample: more would not fit into a bundle.
    uint32 public constant POC_SAMPLE_MAX = 1024;

    IParticipantRegistry public immutable participantRegistry;
    IRewardDistributor public immutable rewardDistributor;
    IQuorumVerifier public immutable quorumVerifier;

    Parameters private _parameters;
    uint64 private immutable _genesisBlock;
    /// @dev The segment (see EpochSegments) in force when it was last looked at, and the one after it: a change that is
    /// scheduled or, until the next `storeGroup`, in force already. There is one exactly if `_segment` has an end.
    uint256 private _segment;
    uint256 private _nextSegment;
    /// @dev What commitments read of both (see CommitWindows); written whenever one of them is.
    uint256 private _windows;
    Rules private _rules;
    Rules private _nextRules;
    PastSegment[] private _past;
    /// @dev The newest groups, each as the epoch in which it takes over (upper 96 bits) and where its validator set is
    /// stored. A look-up finds the newest one at or before an epoch, which is how a group carries on. A ring, so that a
    /// result overwrites a word instead of filling an empty one; nobody asks for groups of long ago.
    uint256[GROUPS_KEPT] private _groups;
    Progress private _progress;
    /// @dev EIP-712 digest of the newest accepted result.
    bytes32 private _resultDigest;
    /// @notice Where a packed validator set is stored as code (see ValidatorSets), by its hash; zero if it is not.
    mapping(bytes32 validatorSetHash => address pointer) public storedGroup;
    /// @notice Whether a result was voided by objection; it cannot be posted again.
    mapping(bytes32 digest => bool) public isVoid;
    /// @dev A node's and a validator's newest commitment: its epoch plus one (64 bits) and 192 bits of its hash. Each
    /// epoch overwrites the one before, whose proofs are judged by then.
    mapping(bytes32 nodeKey => uint256 commitment) private _pocCommits;
    mapping(address validator => uint256 commitment) private _voteCommits;

    event PocCommitted(
        uint64 indexed epoch,
        address indexed participant,
        string nodeId,
        string modelId,
        uint64 count,
        bytes32 root,
        bytes vectorsCid
    );
    event VotesCommitted(uint64 indexed epoch, address indexed validator, bytes bundleCid);
    event EpochResultPosted(
        uint64 indexed epoch,
        bytes contentCid,
        bytes32 validatorSetHash,
        uint256 totalWeight,
        bytes32 rewardsRoot,
        uint256 rewardTotal,
        address poster
    );
    /// @notice The result of `epoch` was voided before its end: its group carries on, and nothing is paid for it.
    event EpochResultVoided(uint64 indexed epoch, bytes32 resultDigest, uint256 objecting, uint256 total);
    /// @notice Parameters from the first block of `fromEpoch` on; in place of a change that was scheduled and has not begun.
    event ParametersScheduled(uint64 indexed fromEpoch, uint64 fromBlock, Schedule parameters);
    /// @notice The genesis group.
    event GroupSet(uint64 indexed epoch, bytes validatorSet);
    /// @notice A group that a result may name by its hash.
    event GroupStored(bytes32 indexed validatorSetHash, bytes validatorSet);

    error StageOffsetsNotIncreasing(uint256 index);
    error PocSampleOutOfRange(uint32 sampleSize, uint32 rejectMismatches);
    error SubsidyMismatch(uint256 initialSubsidy, uint32 halvingEpochs);
    error EpochLength(uint64 epochBlocks, uint256 min, uint256 max);
    error UnitPriceOutOfRange(uint256 unitPrice, uint256 max);
    error ChangeOutOfRange(uint64 fromEpoch, uint256 min, uint256 max);
    error ChangeIsNear(uint256 fromEpoch);
    error BeforeGenesis(uint256 blockNumber, uint64 genesisBlock);
    error WrongStage(uint64 wantedEpoch, uint64 currentEpoch, Stage currentStage);
    error NotServing(address participant, string nodeId, string modelId);
    error AlreadyCommitted(bytes24 commitment);
    error NonceCountOutOfRange(uint64 count, uint64 max);
    error CidLength(uint256 length);
    error NotAMember(address account, uint64 epoch);
    error AlreadyPosted(uint64 epoch, bytes32 digest);
    error ResultVoid(bytes32 digest);
    error GroupForgotten(uint64 epoch);
    error ResultMismatch(uint64 epoch, bytes32 expected, bytes32 actual);
    error ObjectionTooWeak(uint256 objecting, uint256 total);
    error GroupNotStored(bytes32 validatorSetHash);
    error TotalWeightMismatch(uint256 expected, uint256 actual);
    error QuorumNotReached(uint256 signed, uint256 total);

    /// @param parameters_ A genesisBlock of zero means the block of deployment. Subsidy and halving must be those of
    /// `rewardDistributor_`, which is the one that enforces them.
    /// @param genesisGroup Packed validator set of epoch 0 (see ValidatorSets).
    /// @param initialOwner May schedule other parameters: governance.
    constructor(
        Parameters memory parameters_,
        bytes memory genesisGroup,
        IParticipantRegistry participantRegistry_,
        IRewardDistributor rewardDistributor_,
        IQuorumVerifier quorumVerifier_,
        address initialOwner
    ) EIP712("Quern", "1") Ownable(initialOwner) {
        if (parameters_.genesisBlock == 0) {
            parameters_.genesisBlock = SafeCast.toUint64(block.number);
        }
        _checkParameters(parameters_, rewardDistributor_);
        _parameters = parameters_;
        _genesisBlock = parameters_.genesisBlock;
        Schedule memory first = _scheduleOf(parameters_);
        _segment = EpochSegments.pack(_offsets(first), 0, parameters_.genesisBlock);
        _windows = CommitWindows.pack(_segment);
        _rules = _rulesOf(first);
        participantRegistry = participantRegistry_;
        rewardDistributor = rewardDistributor_;
        quorumVerifier = quorumVerifier_;
        emit GroupSet(0, genesisGroup);
        (bytes memory cumulative,) = ValidatorSets.accumulate(genesisGroup);
        _groups[0] = uint160(ValidatorSets.store(cumulative));
        _progress.groupCount = 1;
    }

    /// @notice Commit a node's batch of nonces 0 to count-1, while GENERATE or EXCHANGE lasts; once per node and epoch.
    /// @param root Merkle root over the quantised vectors, in nonce order.
    /// @param vectorsCid Binary CID of the vectors.
    function commitPoc(
        uint64 epoch,
        string calldata nodeId,
        string calldata modelId,
        uint64 count,
        bytes32 root,
        bytes calldata vectorsCid
    ) external {
        _requireOpen(epoch, CommitWindows.PROOFS);
        if (count == 0 || count > NONCES_MAX) revert NonceCountOutOfRange(count, NONCES_MAX);
        _checkCid(vectorsCid);
        if (!participantRegistry.servesModel(msg.sender, nodeId, modelId)) {
            revert NotServing(msg.sender, nodeId, modelId);
        }
        bytes32 key = _pocKey(msg.sender, nodeId);
        _requireNoCommitment(_pocCommits[key], epoch);
        _pocCommits[key] = _commitment(epoch, keccak256(abi.encode(modelId, count, root, vectorsCid)));
        emit PocCommitted(epoch, msg.sender, nodeId, modelId, count, root, vectorsCid);
    }

    /// @notice Commit the bundle of all votes of a member, while VALIDATE or VOTE_EXCHANGE lasts; once per epoch.
    /// @param bundleCid Binary CID of the bundle.
    function commitVotes(uint64 epoch, bytes calldata bundleCid) external {
        _requireOpen(epoch, CommitWindows.VOTES);
        _checkCid(bundleCid);
        if (weightOf(epoch, msg.sender) == 0) revert NotAMember(msg.sender, epoch);
        _requireNoCommitment(_voteCommits[msg.sender], epoch);
        _voteCommits[msg.sender] = _commitment(epoch, keccak256(bundleCid));
        emit VotesCommitted(epoch, msg.sender, bundleCid);
    }

    /// @notice Store the group that a result will name, once for each set. Any member of the group in charge may; a set
    /// that is stored already costs nothing more.
    /// @param validatorSet The group, packed (see ValidatorSets).
    function storeGroup(bytes calldata validatorSet) external {
        _moveOn();
        bytes32 setHash = keccak256(validatorSet);
        if (storedGroup[setHash] != address(0)) return;
        (uint64 epoch,,,) = stageAt(block.number);
        if (weightOf(epoch, msg.sender) == 0) revert NotAMember(msg.sender, epoch);
        (bytes memory cumulative,) = ValidatorSets.accumulate(validatorSet);
        storedGroup[setHash] = ValidatorSets.store(cumulative);
        emit GroupStored(setHash, validatorSet);
    }

    /// @notice Post a result signed by more than two thirds of the weight in charge, while FORM lasts; once per epoch.
    /// Anyone may post it. The group it names must be stored. It takes effect at the epoch's end unless it is voided.
    /// @param signerBitmap Who of the group of `result.epoch` signed (see IQuorumVerifier).
    /// @param signatures Their signatures on `hashEpochResult(result)`, in the order of the members.
    function submitEpochResult(EpochResult calldata result, uint256[] calldata signerBitmap, bytes calldata signatures)
        external
    {
        uint256 segment = _requireWindow(result.epoch, Stage.FORM, uint256(Stage.LOAD));
        Progress memory progress = _progress;
        if (progress.resultEpochPlusOne == result.epoch + 1) revert AlreadyPosted(result.epoch, _resultDigest);
        _checkCid(result.contentCid);
        address pointer = _checkGroup(result);
        bytes32 digest = hashEpochResult(result);
        if (progress.voidEpochPlusOne == result.epoch + 1 && isVoid[digest]) revert ResultVoid(digest);
        (uint256 signed, uint256 total) = _weigh(result.epoch, digest, signerBitmap, signatures);
        if (3 * signed <= 2 * total) revert QuorumNotReached(signed, total);

        _resultDigest = digest;
        _groups[progress.groupCount % GROUPS_KEPT] = uint256(result.epoch + 1) << 160 | uint160(pointer);
        (progress.resultEpochPlusOne, progress.groupCount) = (result.epoch + 1, progress.groupCount + 1);
        _progress = progress;
        _announce(result, uint64(segment.blockOf(result.epoch + 1)));
    }

    /// @notice Void the result of the present epoch by the objection of at least a third of the weight in charge, before
    /// the epoch ends. Another result may be posted if FORM still lasts.
    /// @param digest The result objected to, as in `resultOf`.
    /// @param signerBitmap Who objects (see IQuorumVerifier).
    /// @param signatures Their signatures on `hashObjection(epoch, digest)`, in the order of the members.
    function voidEpochResult(uint64 epoch, bytes32 digest, uint256[] calldata signerBitmap, bytes calldata signatures)
        external
    {
        _requireWindow(epoch, Stage.FORM, EpochSegments.STAGES);
        if (digest == 0 || resultOf(epoch) != digest) revert ResultMismatch(epoch, digest, resultOf(epoch));
        (uint256 objecting, uint256 total) = _weigh(epoch, hashObjection(epoch, digest), signerBitmap, signatures);
        if (3 * objecting < total) revert ObjectionTooWeak(objecting, total);

        isVoid[digest] = true;
        // The group of this result is the newest one.
        _progress = Progress(_progress.groupCount - 1, 0, epoch + 1);
        emit EpochResultVoided(epoch, digest, objecting, total);
        rewardDistributor.voidEpoch(epoch);
    }

    /// @notice Let other parameters hold from `fromEpoch` on: NOTICE_EPOCHS ahead at least. A change that is scheduled and
    /// no nearer than that is replaced; one that is nearer stays, and no other is taken until it holds. The parameters of
    /// the present, scheduled again, undo a change.
    function scheduleParameters(uint64 fromEpoch, Schedule calldata parameters_) external onlyOwner {
        _moveOn();
        uint256 segment = _segment;
        (uint64 current,,,) = stageAt(block.number);
        uint64 soonest = current + NOTICE_EPOCHS;
        if (fromEpoch < soonest || fromEpoch > current + AHEAD_EPOCHS_MAX || fromEpoch >= CommitWindows.EPOCH_MAX) {
            revert ChangeOutOfRange(fromEpoch, soonest, current + AHEAD_EPOCHS_MAX);
        }
        if (segment.endBlock() != EpochSegments.BLOCK_MAX && _nextSegment.firstEpoch() < soonest) {
            revert ChangeIsNear(_nextSegment.firstEpoch());
        }
        _checkSchedule(parameters_);
        if (parameters_.pocSampleSize > POC_SAMPLE_MAX) {
            revert PocSampleOutOfRange(parameters_.pocSampleSize, parameters_.pocRejectMismatches);
        }
        uint256 length = _parameters.epochBlocks;
        if (
            parameters_.epochBlocks * LENGTH_FACTOR_MAX < length || parameters_.epochBlocks > length * LENGTH_FACTOR_MAX
        ) revert EpochLength(parameters_.epochBlocks, length / LENGTH_FACTOR_MAX, length * LENGTH_FACTOR_MAX);
        uint256 fromBlock = segment.blockOf(fromEpoch);
        _segment = segment.withEnd(fromBlock);
        _nextSegment = EpochSegments.pack(_offsets(parameters_), fromEpoch, fromBlock);
        _windows = CommitWindows.pack(_segment, _nextSegment);
        _nextRules = _rulesOf(parameters_);
        emit ParametersScheduled(fromEpoch, uint64(fromBlock), parameters_);
    }

    /// @notice The parameters of the first epochs. Daemons derive stages and prices from them and from the changes that
    /// ParametersScheduled told.
    function parameters() external view returns (Parameters memory) {
        return _parameters;
    }

    /// @notice The parameters of `epoch`, as far as it is known now, and where those began to hold.
    function parametersOf(uint64 epoch)
        external
        view
        returns (uint64 fromEpoch, uint256 fromBlock, Schedule memory parameters_)
    {
        (uint256 segment, Rules memory rules) = (_segment, _rules);
        if (segment.endBlock() != EpochSegments.BLOCK_MAX && epoch >= _nextSegment.firstEpoch()) {
            (segment, rules) = (_nextSegment, _nextRules);
        }
        for (uint256 index = _past.length; index > 0 && epoch < segment.firstEpoch(); --index) {
            (segment, rules) = (_past[index - 1].segment, _past[index - 1].rules);
        }
        parameters_ = Schedule({
            epochBlocks: uint64(segment.length()),
            generateOffset: uint64(segment.offsetOf(uint256(Stage.GENERATE))),
            exchangeOffset: uint64(segment.offsetOf(uint256(Stage.EXCHANGE))),
            validateOffset: uint64(segment.offsetOf(uint256(Stage.VALIDATE))),
            voteExchangeOffset: uint64(segment.offsetOf(uint256(Stage.VOTE_EXCHANGE))),
            formOffset: uint64(segment.offsetOf(uint256(Stage.FORM))),
            loadOffset: uint64(segment.offsetOf(uint256(Stage.LOAD))),
            pocSampleSize: rules.pocSampleSize,
            pocRejectMismatches: rules.pocRejectMismatches,
            unitPrice: rules.unitPrice
        });
        return (uint64(segment.firstEpoch()), segment.firstBlock(), parameters_);
    }

    /// @inheritdoc IEpochManager
    function unitPrice() external view returns (uint256) {
        return block.number < _segment.endBlock() ? _rules.unitPrice : _nextRules.unitPrice;
    }

    /// @inheritdoc IEpochManager
    function currentStage() external view returns (uint64 epoch, Stage stage, uint256 firstBlock, uint256 nextBlock) {
        return stageAt(block.number);
    }

    /// @notice The group in charge in `epoch`, packed: its own, else that of the latest epoch before it. For an epoch
    /// that has not begun, the group that would be in charge if no other result were accepted.
    function groupOf(uint64 epoch) external view returns (bytes memory validatorSet) {
        return _cumulativeGroup(epoch).pack();
    }

    /// @notice Sum of the weights of the group in charge in `epoch`.
    function totalWeightOf(uint64 epoch) external view returns (uint256) {
        return _cumulativeGroup(epoch).total();
    }

    /// @inheritdoc IEpochManager
    function drawMember(uint64 epoch, bytes32 seed) external view returns (address) {
        bytes memory group = _cumulativeGroup(epoch);
        return group.memberAt(uint256(seed) % group.total());
    }

    /// @inheritdoc IEpochManager
    function weighSignatures(uint64 epoch, bytes32 digest, uint256[] calldata signerBitmap, bytes calldata signatures)
        external
        view
        returns (uint256 signed, uint256 total)
    {
        return _weigh(epoch, digest, signerBitmap, signatures);
    }

    /// @notice First 24 bytes of the hash of (modelId, count, root, vectorsCid) of a node's batch of `epoch`; zero if it
    /// committed none, or has committed one of another epoch since.
    function pocCommitOf(uint64 epoch, address participant, string calldata nodeId) external view returns (bytes24) {
        return _commitmentOf(_pocCommits[_pocKey(participant, nodeId)], epoch);
    }

    /// @notice First 24 bytes of the hash of the CID of a validator's vote bundle of `epoch`; zero as above.
    function voteCommitOf(uint64 epoch, address validator) external view returns (bytes24) {
        return _commitmentOf(_voteCommits[validator], epoch);
    }

    /// @notice EIP-712 digest of the accepted result of `epoch`; zero if there is none, or a newer one.
    function resultOf(uint64 epoch) public view returns (bytes32) {
        return _progress.resultEpochPlusOne == epoch + 1 ? _resultDigest : bytes32(0);
    }

    /// @inheritdoc IEpochManager
    function weightOf(uint64 epoch, address account) public view returns (uint256) {
        return _cumulativeGroup(epoch).weightOf(account);
    }

    /// @notice Where `blockNumber` lies: its epoch, stage, the stage's first block and the first block of the next.
    function stageAt(uint256 blockNumber)
        public
        view
        returns (uint64 epoch, Stage stage, uint256 firstBlock, uint256 nextBlock)
    {
        if (blockNumber < _genesisBlock) revert BeforeGenesis(blockNumber, _genesisBlock);
        uint256 segment = _segmentAt(blockNumber);
        uint256 offset = (blockNumber - segment.firstBlock()) % segment.length();
        epoch = SafeCast.toUint64(segment.firstEpoch() + (blockNumber - segment.firstBlock()) / segment.length());
        uint256 index;
        while (segment.offsetOf(index + 1) <= offset) ++index;
        stage = Stage(index);
        firstBlock = blockNumber - offset + segment.offsetOf(index);
        nextBlock = blockNumber - offset + segment.offsetOf(index + 1);
    }

    /// @notice EIP-712 digest of an objection: what members sign who will not have a posted result.
    function hashObjection(uint64 epoch, bytes32 resultDigest) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(OBJECTION_TYPEHASH, epoch, resultDigest)));
    }

    /// @notice EIP-712 digest of a result: what the members of its epoch's group sign.
    function hashEpochResult(EpochResult calldata result) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    EPOCH_RESULT_TYPEHASH,
                    result.epoch,
                    keccak256(result.contentCid),
                    result.validatorSetHash,
                    result.totalWeight,
                    result.rewardsRoot,
                    result.rewardTotal
                )
            )
        );
    }

    /// @dev Tell daemons and the RewardDistributor of an accepted result.
    function _announce(EpochResult calldata result, uint64 activeFrom) private {
        emit EpochResultPosted(
            result.epoch,
            result.contentCid,
            result.validatorSetHash,
            result.totalWeight,
            result.rewardsRoot,
            result.rewardTotal,
            msg.sender
        );
        rewardDistributor.postEpoch(result.epoch, result.rewardsRoot, result.rewardTotal, activeFrom);
    }

    function _cumulativeGroup(uint64 epoch) private view returns (bytes memory) {
        return ValidatorSets.load(_groupPointer(epoch));
    }

    /// @dev Where the group in charge in `epoch` is stored. The slot before the oldest may hold a group that was voided,
    /// so one less is looked at.
    function _groupPointer(uint64 epoch) private view returns (address) {
        uint256 count = _progress.groupCount;
        unchecked {
            uint256 oldest = count < GROUPS_KEPT ? 0 : count - GROUPS_KEPT + 1;
            for (uint256 index = count; index > oldest; --index) {
                uint256 group = _groups[(index - 1) % GROUPS_KEPT];
                if (group >> 160 <= epoch) return address(uint160(group));
            }
        }
        revert GroupForgotten(epoch);
    }

    /// @dev Let a change that has begun be the present segment: from then on results read one word less.
    function _moveOn() private {
        uint256 segment = _segment;
        if (block.number < segment.endBlock()) return;
        _past.push(PastSegment(segment, _rules));
        (_segment, _rules) = (_nextSegment, _nextRules);
        _windows = CommitWindows.pack(_segment);
    }

    /// @dev The segment of a block from genesis on.
    function _segmentAt(uint256 blockNumber) private view returns (uint256 segment) {
        segment = _segment;
        if (blockNumber >= segment.endBlock()) return _nextSegment;
        for (uint256 index = _past.length; index > 0 && blockNumber < segment.firstBlock(); --index) {
            segment = _past[index - 1].segment;
        }
    }

    /// @dev The newest block must lie in a window for commitments of `epoch`.
    function _requireOpen(uint64 epoch, uint256 window) private view {
        if (_windows.isOpen(block.number, epoch, window)) return;
        (uint64 current, Stage stage,,) = stageAt(block.number);
        revert WrongStage(epoch, current, stage);
    }

    /// @dev The newest block must lie in `epoch`, from stage `begin` on and before stage `end`. Returns its segment.
    function _requireWindow(uint64 epoch, Stage begin, uint256 end) private view returns (uint256 segment) {
        segment = _segment;
        if (block.number >= segment.endBlock()) segment = _nextSegment;
        uint256 firstBlock = segment.firstBlock();
        if (block.number >= firstBlock) {
            unchecked {
                uint256 elapsed = block.number - firstBlock;
                uint256 length = segment.length();
                uint256 offset = elapsed % length;
                if (
                    segment.firstEpoch() + elapsed / length == epoch && segment.offsetOf(uint256(begin)) <= offset
                        && offset < segment.offsetOf(end)
                ) return segment;
            }
        }
        (uint64 current, Stage stage,,) = stageAt(block.number);
        revert WrongStage(epoch, current, stage);
    }

    function _requireNoCommitment(uint256 commitment, uint64 epoch) private pure {
        bytes24 known = _commitmentOf(commitment, epoch);
        if (known != 0) revert AlreadyCommitted(known);
    }

    function _commitment(uint64 epoch, bytes32 hash) private pure returns (uint256) {
        return uint256(epoch + 1) << 192 | uint256(hash) >> 64;
    }

    function _commitmentOf(uint256 commitment, uint64 epoch) private pure returns (bytes24) {
        return commitment >> 192 == epoch + 1 ? bytes24(uint192(commitment)) : bytes24(0);
    }

    function _weigh(uint64 epoch, bytes32 digest, uint256[] calldata bitmap, bytes calldata signatures)
        private
        view
        returns (uint256 signed, uint256 total)
    {
        bytes memory group = _cumulativeGroup(epoch);
        signed = quorumVerifier.signedWeight(group, digest, bitmap, signatures);
        total = group.total();
    }

    /// @dev The stored group of a result, which must weigh what the result says.
    function _checkGroup(EpochResult calldata result) private view returns (address pointer) {
        pointer = storedGroup[result.validatorSetHash];
        if (pointer == address(0)) revert GroupNotStored(result.validatorSetHash);
        uint256 totalWeight = ValidatorSets.totalAt(pointer);
        if (totalWeight != result.totalWeight) revert TotalWeightMismatch(totalWeight, result.totalWeight);
    }

    function _checkParameters(Parameters memory p, IRewardDistributor distributor) private view {
        _checkSchedule(_scheduleOf(p));
        if (p.genesisBlock > EpochSegments.BLOCK_MAX / 2) revert BeforeGenesis(block.number, p.genesisBlock);
        if (distributor.initialSubsidy() != p.initialSubsidy || distributor.halvingEpochs() != p.halvingEpochs) {
            revert SubsidyMismatch(p.initialSubsidy, p.halvingEpochs);
        }
    }

    function _checkSchedule(Schedule memory p) private pure {
        uint64[8] memory offsets = _offsets(p);
        for (uint256 i; i < EpochSegments.STAGES; ++i) {
            if (offsets[i] >= offsets[i + 1]) revert StageOffsetsNotIncreasing(i + 1);
        }
        if (p.epochBlocks > EpochSegments.OFFSET_MAX) revert EpochLength(p.epochBlocks, 1, EpochSegments.OFFSET_MAX);
        if (p.pocRejectMismatches == 0 || p.pocRejectMismatches > p.pocSampleSize) {
            revert PocSampleOutOfRange(p.pocSampleSize, p.pocRejectMismatches);
        }
        if (p.unitPrice > type(uint96).max) revert UnitPriceOutOfRange(p.unitPrice, type(uint96).max);
    }

    function _scheduleOf(Parameters memory p) private pure returns (Schedule memory) {
        return Schedule(
            p.epochBlocks,
            p.generateOffset,
            p.exchangeOffset,
            p.validateOffset,
            p.voteExchangeOffset,
            p.formOffset,
            p.loadOffset,
            p.pocSampleSize,
            p.pocRejectMismatches,
            p.unitPrice
        );
    }

    function _offsets(Schedule memory p) private pure returns (uint64[8] memory) {
        return [
            0,
            p.generateOffset,
            p.exchangeOffset,
            p.validateOffset,
            p.voteExchangeOffset,
            p.formOffset,
            p.loadOffset,
            p.epochBlocks
        ];
    }

    /// @dev The price was checked: it is the only field that could be cut.
    function _rulesOf(Schedule memory p) private pure returns (Rules memory) {
        return Rules(p.pocSampleSize, p.pocRejectMismatches, uint128(p.unitPrice));
    }

    function _checkCid(bytes calldata cid) private pure {
        if (cid.length == 0 || cid.length > CID_LENGTH_MAX) revert CidLength(cid.length);
    }

    function _pocKey(address participant, string calldata nodeId) private pure returns (bytes32) {
        return keccak256(abi.encode(participant, nodeId));
    }
}
