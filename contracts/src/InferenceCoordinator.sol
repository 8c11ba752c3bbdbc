// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IEpochManager} from "./interfaces/IEpochManager.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";

/// @title Prompts on chain: escrow, a drawn executor, one answer paid after a time for dispute, the rest refunded.
/// @notice For contracts and for users without a gateway. Prompt and answer are content by CID. Token counts are the
/// executor's statement, bounded by the escrow; a user who disputes them binds the same amount again, and the group
/// judges. Every escrow ends: answered and settled, reclaimed after the deadline, or decided by verdict; where no verdict
/// comes in time, the answer counts and the bond goes back. The draw knows weights, not which model a member serves, and
/// a user may time its transaction to steer it: whoever is drawn and cannot answer lets the first half of the deadline
/// pass, then any member of the group may.
contract InferenceCoordinator is EIP712 {
    using SafeERC20 for IERC20;

    enum PromptStatus {
        OPEN,
        ANSWERED,
        DISPUTED,
        SETTLED,
        RECLAIMED
    }

    /// @notice A prompt and its escrow; amounts in units of 10^-18.
    struct Prompt {
        address user;
        /// OPEN: last block for an answer. ANSWERED: last block for a dispute. DISPUTED: last block for a verdict.
        uint64 deadlineBlock;
        uint32 maxTokens;
        address executor;
        uint32 modelVersion;
        PromptStatus status;
        uint64 epoch;
        uint128 maxPrice;
        uint128 tokenPrice;
        /// What the answer costs; zero before there is one.
        uint128 price;
    }

    /// @notice Blocks for an answer, for the user's dispute, and for the group's verdict on it.
    struct Windows {
        uint64 answerBlocks;
        uint64 disputeBlocks;
        uint64 verdictBlocks;
    }

    bytes32 public constant DISPUTE_VERDICT_TYPEHASH = keccak256("DisputeVerdict(uint256 promptId,bool forUser)");
    uint32 public constant DEFAULT_MAX_TOKENS = 512;
    /// @dev More would not fit any model's context; keeps a typing error from escrowing everything.
    uint32 public constant MAX_TOKENS_LIMIT = 1_000_000;
    uint256 public constant CID_LENGTH_MAX = 128;

    IERC20 public immutable token;
    IModelRegistry public immutable modelRegistry;
    IEpochManager public immutable epochManager;
    /// @notice Blocks an answer may take. In their second half any member of the group may answer.
    uint64 public immutable answerBlocks;
    /// @notice Blocks after an answer in which its user may dispute it.
    uint64 public immutable disputeBlocks;
    /// @notice Blocks after a dispute in which the group may judge.
    uint64 public immutable verdictBlocks;

    Prompt[] private _prompts;

    event PromptSubmitted(
        uint256 indexed promptId,
        address indexed user,
        string modelId,
        string modelCID,
        string promptCID,
        uint32 maxTokens,
        uint256 maxPrice,
        address executor,
        uint64 deadlineBlock
    );
    event PromptAnswered(
        uint256 indexed promptId,
        address indexed executor,
        string resultCID,
        uint32 promptTokens,
        uint32 outputTokens,
        uint256 price,
        uint64 disputeUntil
    );
    event PromptDisputed(uint256 indexed promptId, address indexed user, string reasonCID, uint64 verdictUntil);
    /// @notice The executor was paid `paid`, the user got back `refunded`, a bond included.
    event PromptSettled(uint256 indexed promptId, address indexed executor, uint256 paid, uint256 refunded);
    event PromptReclaimed(uint256 indexed promptId, address indexed user, uint256 amount);

    error CidLength(uint256 length);
    error MaxTokensOutOfRange(uint256 maxTokens, uint256 limit);
    error PriceAboveLimit(uint256 price, uint256 limit);
    error AnswerBlocksZero();
    error NoOutput(uint256 promptId);
    error PromptUnknown(uint256 promptId);
    error WrongStatus(uint256 promptId, PromptStatus status);
    error DeadlinePassed(uint256 promptId, uint64 deadlineBlock);
    error DeadlineNotReached(uint256 promptId, uint64 deadlineBlock);
    error NotTheExecutor(address caller, address executor);
    error NotTheUser(address caller, address user);
    error QuorumNotReached(uint256 signed, uint256 total);

    constructor(IERC20 token_, IModelRegistry modelRegistry_, IEpochManager epochManager_, Windows memory windows)
        EIP712("Quern", "1")
    {
        if (windows.answerBlocks == 0) revert AnswerBlocksZero();
        token = token_;
        modelRegistry = modelRegistry_;
        epochManager = epochManager_;
        answerBlocks = windows.answerBlocks;
        disputeBlocks = windows.disputeBlocks;
        verdictBlocks = windows.verdictBlocks;
    }

    /// @notice Ask a model by id; the registry resolves its current CID. Escrows the price of DEFAULT_MAX_TOKENS.
    function submitPrompt(string calldata promptCID, string calldata modelId) external returns (uint256 promptId) {
        return _submit(promptCID, modelId, DEFAULT_MAX_TOKENS, type(uint256).max);
    }

    /// @notice As above, for at most `maxTokens` tokens, those of the prompt included, and at most `priceLimit`.
    function submitPrompt(string calldata promptCID, string calldata modelId, uint32 maxTokens, uint256 priceLimit)
        external
        returns (uint256 promptId)
    {
        return _submit(promptCID, modelId, maxTokens, priceLimit);
    }

    /// @notice Answer a prompt. It is paid, up to the escrow, once its user can no longer dispute it (`settle`).
    function submitResult(uint256 promptId, string calldata resultCID, uint32 promptTokens, uint32 outputTokens)
        external
    {
        Prompt storage prompt = _inStatus(promptId, PromptStatus.OPEN);
        if (block.number > prompt.deadlineBlock) revert DeadlinePassed(promptId, prompt.deadlineBlock);
        _requireExecutor(prompt);
        _checkCid(resultCID);
        if (outputTokens == 0) revert NoOutput(promptId);
        uint256 price = Math.min((uint256(promptTokens) + outputTokens) * prompt.tokenPrice, prompt.maxPrice);
        prompt.executor = msg.sender;
        prompt.price = uint128(price);
        prompt.status = PromptStatus.ANSWERED;
        prompt.deadlineBlock = uint64(block.number) + disputeBlocks;
        emit PromptAnswered(promptId, msg.sender, resultCID, promptTokens, outputTokens, price, prompt.deadlineBlock);
    }

    /// @notice Dispute an answer, binding its price once more: it is lost to the executor if the group finds for it.
    /// @param reasonCID What is wrong with the answer, for the group to judge.
    function dispute(uint256 promptId, string calldata reasonCID) external {
        Prompt storage prompt = _inStatus(promptId, PromptStatus.ANSWERED);
        if (msg.sender != prompt.user) revert NotTheUser(msg.sender, prompt.user);
        if (block.number > prompt.deadlineBlock) revert DeadlinePassed(promptId, prompt.deadlineBlock);
        _checkCid(reasonCID);
        prompt.status = PromptStatus.DISPUTED;
        prompt.deadlineBlock = uint64(block.number) + verdictBlocks;
        emit PromptDisputed(promptId, msg.sender, reasonCID, prompt.deadlineBlock);
        token.safeTransferFrom(msg.sender, address(this), prompt.price);
    }

    /// @notice Decide a dispute by more than two thirds of the weight of the group that was in charge when the prompt was
    /// submitted. For the user: everything goes back to it. Against it: the executor gets the price and the bond.
    /// @param signerBitmap Who signed (see IQuorumVerifier).
    /// @param signatures Their signatures on `hashDisputeVerdict(promptId, forUser)`, in the order of the members.
    function resolveDispute(uint256 promptId, bool forUser, uint256[] calldata signerBitmap, bytes calldata signatures)
        external
    {
        Prompt storage prompt = _inStatus(promptId, PromptStatus.DISPUTED);
        if (block.number > prompt.deadlineBlock) revert DeadlinePassed(promptId, prompt.deadlineBlock);
        (uint256 signed, uint256 total) =
            epochManager.weighSignatures(prompt.epoch, hashDisputeVerdict(promptId, forUser), signerBitmap, signatures);
        if (3 * signed <= 2 * total) revert QuorumNotReached(signed, total);
        _settle(promptId, prompt, forUser ? 0 : 2 * uint256(prompt.price), prompt.price);
    }

    /// @notice Pay an answer that was not disputed in time, or whose dispute was not decided in time, and refund the
    /// rest of its escrow and the bond. Anyone may call it.
    function settle(uint256 promptId) external {
        if (promptId >= _prompts.length) revert PromptUnknown(promptId);
        Prompt storage prompt = _prompts[promptId];
        PromptStatus status = prompt.status;
        if (status != PromptStatus.ANSWERED && status != PromptStatus.DISPUTED) revert WrongStatus(promptId, status);
        if (block.number <= prompt.deadlineBlock) revert DeadlineNotReached(promptId, prompt.deadlineBlock);
        _settle(promptId, prompt, prompt.price, status == PromptStatus.DISPUTED ? prompt.price : 0);
    }

    /// @notice Give the whole escrow of an unanswered prompt back to its user, after the deadline. Anyone may call it.
    function reclaim(uint256 promptId) external {
        Prompt storage prompt = _inStatus(promptId, PromptStatus.OPEN);
        if (block.number <= prompt.deadlineBlock) revert DeadlineNotReached(promptId, prompt.deadlineBlock);
        prompt.status = PromptStatus.RECLAIMED;
        emit PromptReclaimed(promptId, prompt.user, prompt.maxPrice);
        token.safeTransfer(prompt.user, prompt.maxPrice);
    }

    /// @notice A prompt's state.
    function getPrompt(uint256 promptId) external view returns (Prompt memory) {
        if (promptId >= _prompts.length) revert PromptUnknown(promptId);
        return _prompts[promptId];
    }

    /// @notice Number of prompts ever submitted; the next id.
    function promptCount() external view returns (uint256) {
        return _prompts.length;
    }

    /// @notice EIP-712 digest of a verdict on a dispute: what members of the prompt's group sign.
    function hashDisputeVerdict(uint256 promptId, bool forUser) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(DISPUTE_VERDICT_TYPEHASH, promptId, forUser)));
    }

    function _submit(string calldata promptCID, string calldata modelId, uint32 maxTokens, uint256 priceLimit)
        private
        returns (uint256 promptId)
    {
        _checkCid(promptCID);
        if (maxTokens == 0 || maxTokens > MAX_TOKENS_LIMIT) revert MaxTokensOutOfRange(maxTokens, MAX_TOKENS_LIMIT);
        promptId = _prompts.length;
        (Prompt memory prompt, string memory modelCID) = _quote(promptId, modelId, maxTokens);
        if (prompt.maxPrice > priceLimit) revert PriceAboveLimit(prompt.maxPrice, priceLimit);
        _prompts.push(prompt);
        emit PromptSubmitted(
            promptId,
            msg.sender,
            modelId,
            modelCID,
            promptCID,
            maxTokens,
            prompt.maxPrice,
            prompt.executor,
            prompt.deadlineBlock
        );
        token.safeTransferFrom(msg.sender, address(this), prompt.maxPrice);
    }

    /// @dev A prompt as it stands once submitted: priced by the registry, with the executor drawn.
    function _quote(uint256 promptId, string calldata modelId, uint32 maxTokens)
        private
        view
        returns (Prompt memory prompt, string memory modelCID)
    {
        uint64 units;
        (modelCID, prompt.modelVersion, units) = modelRegistry.resolve(modelId);
        (prompt.epoch,,,) = epochManager.currentStage();
        bytes32 seed = keccak256(abi.encode(blockhash(block.number - 1), promptId));
        prompt.executor = epochManager.drawMember(prompt.epoch, seed);
        prompt.user = msg.sender;
        prompt.deadlineBlock = SafeCast.toUint64(block.number) + answerBlocks;
        prompt.maxTokens = maxTokens;
        prompt.tokenPrice = SafeCast.toUint128(units * epochManager.unitPrice());
        prompt.maxPrice = maxTokens * prompt.tokenPrice;
    }

    /// @dev Ends a prompt. The two transfers are of the network's own token, which calls nobody and bars nobody: one
    /// party cannot keep the other from its money.
    /// @param paid To the executor.
    /// @param bond What the user bound beside the escrow.
    function _settle(uint256 promptId, Prompt storage prompt, uint256 paid, uint256 bond) private {
        prompt.status = PromptStatus.SETTLED;
        uint256 refunded = prompt.maxPrice + bond - paid;
        (address executor, address user) = (prompt.executor, prompt.user);
        emit PromptSettled(promptId, executor, paid, refunded);
        if (paid != 0) token.safeTransfer(executor, paid);
        if (refunded != 0) token.safeTransfer(user, refunded);
    }

    function _inStatus(uint256 promptId, PromptStatus wanted) private view returns (Prompt storage prompt) {
        if (promptId >= _prompts.length) revert PromptUnknown(promptId);
        prompt = _prompts[promptId];
        if (prompt.status != wanted) revert WrongStatus(promptId, prompt.status);
    }

    function _requireExecutor(Prompt storage prompt) private view {
        if (msg.sender == prompt.executor) return;
        bool late = block.number > prompt.deadlineBlock - answerBlocks / 2;
        (uint64 epoch,,,) = epochManager.currentStage();
        if (!late || epochManager.weightOf(epoch, msg.sender) == 0) {
            revert NotTheExecutor(msg.sender, prompt.executor);
        }
    }

    function _checkCid(string calldata cid) private pure {
        uint256 length = bytes(cid).length;
        if (length == 0 || length > CID_LENGTH_MAX) revert CidLength(length);
    }
}
