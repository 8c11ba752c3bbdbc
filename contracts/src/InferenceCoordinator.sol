// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IEpochManager} from "./interfaces/IEpochManager.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";

/// @title Prompts on chain: escrow, a drawn executor, one answer paid, the rest refunded.
/// @notice For contracts and for users without a gateway. Prompt and answer are content by CID; token counts are the
/// executor's statement, bounded by the escrow and open to audit like any other answer. The draw knows weights, not
/// which model a member serves, and a user may time its transaction to steer it: whoever is drawn and cannot answer
/// lets the first half of the deadline pass, then any member of the group may.
contract InferenceCoordinator {
    using SafeERC20 for IERC20;

    enum PromptStatus {
        OPEN,
        ANSWERED,
        RECLAIMED
    }

    /// @notice A prompt and its escrow; amounts in units of 10^-18.
    struct Prompt {
        address user;
        uint64 deadlineBlock;
        uint32 maxTokens;
        address executor;
        uint32 modelVersion;
        PromptStatus status;
        uint128 maxPrice;
        uint128 tokenPrice;
    }

    uint32 public constant DEFAULT_MAX_TOKENS = 512;
    /// @dev More would not fit any model's context; keeps a typing error from escrowing everything.
    uint32 public constant MAX_TOKENS_LIMIT = 1_000_000;
    uint256 public constant CID_LENGTH_MAX = 128;

    IERC20 public immutable token;
    IModelRegistry public immutable modelRegistry;
    IEpochManager public immutable epochManager;
    /// @notice Blocks an answer may take. In their second half any member of the group may answer.
    uint64 public immutable deadlineBlocks;

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
        uint256 price
    );
    event PromptReclaimed(uint256 indexed promptId, address indexed user, uint256 amount);

    error CidLength(uint256 length);
    error MaxTokensOutOfRange(uint256 maxTokens, uint256 limit);
    error DeadlineBlocksZero();
    error NoOutput(uint256 promptId);
    error PromptUnknown(uint256 promptId);
    error PromptClosed(uint256 promptId, PromptStatus status);
    error DeadlinePassed(uint256 promptId, uint64 deadlineBlock);
    error DeadlineNotReached(uint256 promptId, uint64 deadlineBlock);
    error NotTheExecutor(address caller, address executor);

    constructor(IERC20 token_, IModelRegistry modelRegistry_, IEpochManager epochManager_, uint64 deadlineBlocks_) {
        if (deadlineBlocks_ == 0) revert DeadlineBlocksZero();
        token = token_;
        modelRegistry = modelRegistry_;
        epochManager = epochManager_;
        deadlineBlocks = deadlineBlocks_;
    }

    /// @notice Ask a model by id; the registry resolves its current CID. Escrows the price of DEFAULT_MAX_TOKENS.
    function submitPrompt(string calldata promptCID, string calldata modelId) external returns (uint256 promptId) {
        return _submit(promptCID, modelId, DEFAULT_MAX_TOKENS);
    }

    /// @notice As above, for at most `maxTokens` tokens, those of the prompt included.
    function submitPrompt(string calldata promptCID, string calldata modelId, uint32 maxTokens)
        external
        returns (uint256 promptId)
    {
        return _submit(promptCID, modelId, maxTokens);
    }

    /// @notice Answer a prompt and be paid for it, up to the escrow; the rest of it goes back to the user.
    function submitResult(uint256 promptId, string calldata resultCID, uint32 promptTokens, uint32 outputTokens)
        external
    {
        Prompt storage prompt = _open(promptId);
        if (block.number > prompt.deadlineBlock) revert DeadlinePassed(promptId, prompt.deadlineBlock);
        _requireExecutor(prompt);
        _checkCid(resultCID);
        if (outputTokens == 0) revert NoOutput(promptId);
        uint256 escrow = prompt.maxPrice;
        uint256 price = Math.min((uint256(promptTokens) + outputTokens) * prompt.tokenPrice, escrow);
        address user = prompt.user;
        prompt.status = PromptStatus.ANSWERED;
        emit PromptAnswered(promptId, msg.sender, resultCID, promptTokens, outputTokens, price);
        token.safeTransfer(msg.sender, price);
        if (price < escrow) token.safeTransfer(user, escrow - price);
    }

    /// @notice Give the whole escrow of an unanswered prompt back to its user, after the deadline. Anyone may call it.
    function reclaim(uint256 promptId) external {
        Prompt storage prompt = _open(promptId);
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

    function _submit(string calldata promptCID, string calldata modelId, uint32 maxTokens)
        private
        returns (uint256 promptId)
    {
        _checkCid(promptCID);
        if (maxTokens == 0 || maxTokens > MAX_TOKENS_LIMIT) revert MaxTokensOutOfRange(maxTokens, MAX_TOKENS_LIMIT);
        (string memory modelCID, uint32 version, uint64 units) = modelRegistry.resolve(modelId);
        promptId = _prompts.length;
        Prompt memory prompt = Prompt({
            user: msg.sender,
            deadlineBlock: SafeCast.toUint64(block.number) + deadlineBlocks,
            maxTokens: maxTokens,
            executor: _drawExecutor(promptId),
            modelVersion: version,
            status: PromptStatus.OPEN,
            maxPrice: 0,
            tokenPrice: SafeCast.toUint128(units * epochManager.unitPrice())
        });
        prompt.maxPrice = maxTokens * prompt.tokenPrice;
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

    function _drawExecutor(uint256 promptId) private view returns (address) {
        (uint64 epoch,,,) = epochManager.currentStage();
        return epochManager.drawMember(epoch, keccak256(abi.encode(blockhash(block.number - 1), promptId)));
    }

    function _open(uint256 promptId) private view returns (Prompt storage prompt) {
        if (promptId >= _prompts.length) revert PromptUnknown(promptId);
        prompt = _prompts[promptId];
        if (prompt.status != PromptStatus.OPEN) revert PromptClosed(promptId, prompt.status);
    }

    function _requireExecutor(Prompt storage prompt) private view {
        if (msg.sender == prompt.executor) return;
        bool late = block.number > prompt.deadlineBlock - deadlineBlocks / 2;
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
