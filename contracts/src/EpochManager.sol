// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ParticipantRegistry} from "./ParticipantRegistry.sol";
import {RewardDistributor} from "./RewardDistributor.sol";
import {ValidatorSets} from "./ValidatorSets.sol";
import {IQuorumVerifier} from "./interfaces/IQuorumVerifier.sol";

/// @title Epochs: stages by block number, commitments of proofs and votes, results by weighted quorum.
/// @notice The chain holds one hash per node and epoch and the weights of the group in charge. Everything else is
/// content that daemons exchange and that these hashes commit to.
contract EpochManager is EIP712 {
    using ValidatorSets for bytes;

    /// @notice Offsets count blocks from an epoch's first block and increase strictly. Amounts are in units of 10^-18.
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
        uint32 halvingEpochs;
        uint256 unitPrice;
        uint256 initialSubsidy;
    }

    enum Stage {
        SERVE,
        GENERATE,
        EXCHANGE,
        VALIDATE,
        VOTE_EXCHANGE,
        FORM,
        LOAD
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

    bytes32 public constant EPOCH_RESULT_TYPEHASH = keccak256(
        "EpochResult(uint64 epoch,bytes contentCid,bytes32 validatorSetHash,uint256 totalWeight,"
        "bytes32 rewardsRoot,uint256 rewardTotal)"
    );
    uint256 public constant CID_LENGTH_MAX = 64;
    uint256 public constant EPOCHS_BACK_MAX = 64;

    ParticipantRegistry public immutable participantRegistry;
    RewardDistributor public immutable rewardDistributor;
    IQuorumVerifier public immutable quorumVerifier;

    Parameters private _parameters;
    mapping(uint64 epoch => address pointer) private _groups;
    /// @notice Epoch of the newest group that was set.
    uint64 public newestGroup;
    mapping(uint64 epoch => bytes32 digest) public resultOf;
    /// @notice Hash over (count, root, vectorsCid, modelId) by keccak256(epoch, participant, nodeId).
    mapping(bytes32 commitKey => bytes32) public pocCommitOf;
    mapping(uint64 epoch => mapping(address validator => bytes32 bundleHash)) public voteCommitOf;

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
    event GroupSet(uint64 indexed epoch, bytes validatorSet);

    error InvalidParameters();
    error BeforeGenesis(uint256 blockNumber);
    error WrongStage(uint64 epoch, Stage stage);
    error NotServing(address participant, string nodeId, string modelId);
    error AlreadyCommitted(bytes32 commitment);
    error EmptyBatch();
    error CidLength(uint256 length);
    error NotAMember(address account, uint64 epoch);
    error AlreadyPosted(uint64 epoch);
    error ValidatorSetMismatch(bytes32 expected, bytes32 actual);
    error TotalWeightMismatch(uint256 expected, uint256 actual);
    error QuorumNotReached(uint256 signed, uint256 total);

    /// @param parameters_ A genesisBlock of zero means the block of deployment.
    /// @param genesisGroup Packed validator set of epoch 0 (see ValidatorSets).
    constructor(
        Parameters memory parameters_,
        bytes memory genesisGroup,
        ParticipantRegistry participantRegistry_,
        RewardDistributor rewardDistributor_,
        IQuorumVerifier quorumVerifier_
    ) EIP712("Quern", "1") {
        if (parameters_.genesisBlock == 0) {
            parameters_.genesisBlock = uint64(block.number);
        }
        _checkParameters(parameters_, rewardDistributor_);
        _parameters = parameters_;
        participantRegistry = participantRegistry_;
        rewardDistributor = rewardDistributor_;
        quorumVerifier = quorumVerifier_;
        emit GroupSet(0, genesisGroup);
        (bytes memory cumulative,) = ValidatorSets.accumulate(genesisGroup);
        _groups[0] = ValidatorSets.store(cumulative);
    }

    /// @notice Commit a node's batch of nonces 0 to count-1: one per node and epoch, while GENERATE or EXCHANGE lasts.
    function commitPoc(
        uint64 epoch,
        string calldata nodeId,
        string calldata modelId,
        uint64 count,
        bytes32 root,
        bytes calldata vectorsCid
    ) external {
        _requireStage(epoch, Stage.GENERATE, Stage.EXCHANGE);
        if (!participantRegistry.servesModel(msg.sender, nodeId, modelId)) {
            revert NotServing(msg.sender, nodeId, modelId);
        }
        if (count == 0) revert EmptyBatch();
        if (vectorsCid.length == 0 || vectorsCid.length > CID_LENGTH_MAX) revert CidLength(vectorsCid.length);
        bytes32 key = keccak256(abi.encode(epoch, msg.sender, nodeId));
        if (pocCommitOf[key] != 0) revert AlreadyCommitted(pocCommitOf[key]);
        pocCommitOf[key] = keccak256(abi.encode(modelId, count, root, vectorsCid));
        emit PocCommitted(epoch, msg.sender, nodeId, modelId, count, root, vectorsCid);
    }

    /// @notice Commit the bundle of all votes of a member, while VALIDATE or VOTE_EXCHANGE lasts; once.
    function commitVotes(uint64 epoch, bytes calldata bundleCid) external {
        _requireStage(epoch, Stage.VALIDATE, Stage.VOTE_EXCHANGE);
        if (bundleCid.length == 0 || bundleCid.length > CID_LENGTH_MAX) revert CidLength(bundleCid.length);
        if (weightOf(epoch, msg.sender) == 0) revert NotAMember(msg.sender, epoch);
        bytes32 known = voteCommitOf[epoch][msg.sender];
        if (known != 0) revert AlreadyCommitted(known);
        voteCommitOf[epoch][msg.sender] = keccak256(bundleCid);
        emit VotesCommitted(epoch, msg.sender, bundleCid);
    }

    /// @notice Post a result signed by more than two thirds of the weight in charge, while FORM or LOAD lasts; once.
    /// @param validatorSet The group of the next epoch, packed.
    function submitEpochResult(
        EpochResult calldata result,
        bytes calldata validatorSet,
        uint256[] calldata signerBitmap,
        bytes calldata signatures
    ) external {
        _requireStage(result.epoch, Stage.FORM, Stage.LOAD);
        if (resultOf[result.epoch] != 0) revert AlreadyPosted(result.epoch);
        if (result.contentCid.length == 0 || result.contentCid.length > CID_LENGTH_MAX) {
            revert CidLength(result.contentCid.length);
        }
        bytes memory cumulative = _checkValidatorSet(result, validatorSet);
        bytes32 digest = hashEpochResult(result);
        _requireQuorum(result.epoch, digest, signerBitmap, signatures);

        resultOf[result.epoch] = digest;
        newestGroup = result.epoch + 1;
        _groups[newestGroup] = ValidatorSets.store(cumulative);
        emit GroupSet(newestGroup, validatorSet);
        _emitPosted(result);
        rewardDistributor.postEpoch(result.epoch, result.rewardsRoot, result.rewardTotal);
    }

    /// @notice The parameters every daemon derives stages and prices from.
    function parameters() external view returns (Parameters memory) {
        return _parameters;
    }

    /// @notice Where the newest block stands.
    function currentStage() external view returns (uint64 epoch, Stage stage, uint256 firstBlock, uint256 nextBlock) {
        return stageAt(block.number);
    }

    /// @notice EIP-712 digest of a result.
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

    /// @notice Epoch and stage of a block, and the first blocks of that stage and of the one after it.
    function stageAt(uint256 blockNumber)
        public
        view
        returns (uint64 epoch, Stage stage, uint256 firstBlock, uint256 nextBlock)
    {
        Parameters memory p = _parameters;
        if (blockNumber < p.genesisBlock) revert BeforeGenesis(blockNumber);
        uint256 offset = (blockNumber - p.genesisBlock) % p.epochBlocks;
        epoch = uint64((blockNumber - p.genesisBlock) / p.epochBlocks);
        uint64[8] memory offsets = _offsets(p);
        uint256 index;
        while (offsets[index + 1] <= offset) ++index;
        stage = Stage(index);
        firstBlock = blockNumber - offset + offsets[index];
        nextBlock = blockNumber - offset + offsets[index + 1];
    }

    /// @notice The group in charge in `epoch`, packed as stored: its own, else that of the latest epoch before it.
    function groupOf(uint64 epoch) public view returns (bytes memory cumulative) {
        return ValidatorSets.load(_groupPointer(epoch));
    }

    /// @notice Weight of `account` in the group in charge in `epoch`.
    function weightOf(uint64 epoch, address account) public view returns (uint256) {
        return groupOf(epoch).weightOf(account);
    }

    /// @notice A member of the group in charge, drawn by weight.
    function drawMember(uint64 epoch, bytes32 seed) external view returns (address) {
        bytes memory group = groupOf(epoch);
        return group.memberAt(uint256(seed) % group.total());
    }

    function _checkValidatorSet(EpochResult calldata result, bytes calldata validatorSet)
        private
        pure
        returns (bytes memory cumulative)
    {
        bytes32 setHash = keccak256(validatorSet);
        if (setHash != result.validatorSetHash) revert ValidatorSetMismatch(result.validatorSetHash, setHash);
        uint256 totalWeight;
        (cumulative, totalWeight) = ValidatorSets.accumulate(validatorSet);
        if (totalWeight != result.totalWeight) revert TotalWeightMismatch(result.totalWeight, totalWeight);
    }

    function _emitPosted(EpochResult calldata result) private {
        emit EpochResultPosted(
            result.epoch,
            result.contentCid,
            result.validatorSetHash,
            result.totalWeight,
            result.rewardsRoot,
            result.rewardTotal,
            msg.sender
        );
    }

    function _groupPointer(uint64 epoch) private view returns (address pointer) {
        // Groups are set in ascending order, so what is in charge now is the newest; only look-ups of the past walk.
        uint64 candidate = epoch < newestGroup ? epoch : newestGroup;
        for (uint256 i; i < EPOCHS_BACK_MAX; ++i) {
            pointer = _groups[candidate];
            if (pointer != address(0) || candidate == 0) return pointer;
            --candidate;
        }
    }

    function _requireStage(uint64 epoch, Stage first, Stage second) private view {
        (uint64 current, Stage stage,,) = stageAt(block.number);
        if (current != epoch || (stage != first && stage != second)) revert WrongStage(current, stage);
    }

    function _requireQuorum(uint64 epoch, bytes32 digest, uint256[] calldata bitmap, bytes calldata signatures)
        private
        view
    {
        bytes memory group = groupOf(epoch);
        uint256 signed = quorumVerifier.signedWeight(group, digest, bitmap, signatures);
        uint256 total = group.total();
        if (3 * signed <= 2 * total) revert QuorumNotReached(signed, total);
    }

    function _checkParameters(Parameters memory p, RewardDistributor distributor) private view {
        uint64[8] memory offsets = _offsets(p);
        for (uint256 i; i < 7; ++i) {
            if (offsets[i] >= offsets[i + 1]) revert InvalidParameters();
        }
        if (p.pocRejectMismatches == 0 || p.pocRejectMismatches > p.pocSampleSize) revert InvalidParameters();
        if (distributor.initialSubsidy() != p.initialSubsidy || distributor.halvingEpochs() != p.halvingEpochs) {
            revert InvalidParameters();
        }
    }

    function _offsets(Parameters memory p) private pure returns (uint64[8] memory) {
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
}
