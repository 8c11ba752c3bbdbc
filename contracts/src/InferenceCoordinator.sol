// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EpochManager} from "./EpochManager.sol";
import {ModelRegistry} from "./ModelRegistry.sol";

/// @title Prompts on chain: escrow, a drawn executor, one answer paid, the rest refunded.
/// @notice For contracts and for users without a gateway. Prompt and answer are content by CID; token counts are the
/// executor's statement, bounded by the escrow and open to audit like any other answer.
contract InferenceCoordinator {
    using SafeERC20 for IERC20;

    struct Prompt {
        address user;
        address executor;
        uint64 deadlineBlock;
        uint32 maxTokens;
        bool closed;
        uint256 maxPrice;
        uint256 tokenPrice;
    }

    uint32 public constant DEFAULT_MAX_TOKENS = 512;
    uint32 public constant MAX_TOKENS_LIMIT = 1_000_000;
    uint256 public constant CID_LENGTH_MAX = 128;

    IERC20 public immutable token;
    ModelRegistry public immutable modelRegistry;
    EpochManager public immutable epochManager;
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
    error TokensOutOfRange(uint256 tokens, uint256 max);
    error ModelNotActive(string modelId);
    error PromptUnknown(uint256 promptId);
    error PromptClosed(uint256 promptId);
    error DeadlinePassed(uint64 deadlineBlock);
    error DeadlineNotReached(uint64 deadlineBlock);
    error NotTheExecutor(address caller, address executor);

    constructor(IERC20 token_, ModelRegistry modelRegistry_, EpochManager epochManager_, uint64 deadlineBlocks_) {
        token = token_;
        modelRegistry = modelRegistry_;
        epochManager = epochManager_;
        deadlineBlocks = deadlineBlocks_;
    }

    /// @notice Ask a model by id; the registry resolves its current CID. Escrows the price of DEFAULT_MAX_TOKENS.
    function submitPrompt(string calldata promptCID, string calldata modelId) external returns (uint256) {
        return _submit(promptCID, modelId, DEFAULT_MAX_TOKENS);
    }

    /// @notice As above, for at most `maxTokens` tokens, those of the prompt included.
    function submitPrompt(string calldata promptCID, string calldata modelId, uint32 maxTokens)
        external
        returns (uint256)
    {
        return _submit(promptCID, modelId, maxTokens);
    }

    /// @notice Answer a prompt and be paid for it; the rest of the escrow goes back to the user.
    function submitResult(uint256 promptId, string calldata resultCID, uint32 promptTokens, uint32 outputTokens)
        external
    {
        Prompt storage prompt = _open(promptId);
        if (block.number > prompt.deadlineBlock) revert DeadlinePassed(prompt.deadlineBlock);
        _checkCid(resultCID);
        _requireExecutor(prompt);
        uint256 tokens = uint256(promptTokens) + outputTokens;
        if (outputTokens == 0 || tokens > prompt.maxTokens) revert TokensOutOfRange(tokens, prompt.maxTokens);
        uint256 price = tokens * prompt.tokenPrice;
        prompt.closed = true;
        emit PromptAnswered(promptId, msg.sender, resultCID, promptTokens, outputTokens, price);
        token.safeTransfer(msg.sender, price);
        token.safeTransfer(prompt.user, prompt.maxPrice - price);
    }

    /// @notice Give the whole escrow of an unanswered prompt back to its user, after the deadline. Anyone may call it.
    function reclaim(uint256 promptId) external {
        Prompt storage prompt = _open(promptId);
        if (block.number <= prompt.deadlineBlock) revert DeadlineNotReached(prompt.deadlineBlock);
        prompt.closed = true;
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
        if (maxTokens == 0 || maxTokens > MAX_TOKENS_LIMIT) revert TokensOutOfRange(maxTokens, MAX_TOKENS_LIMIT);
        ModelRegistry.ModelInfo memory model = modelRegistry.getModel(modelId);
        if (!model.active) revert ModelNotActive(modelId);
        (uint64 epoch,,,) = epochManager.currentStage();
        promptId = _prompts.length;
        bytes32 seed = keccak256(abi.encode(blockhash(block.number - 1), promptId));
        Prompt memory prompt;
        prompt.user = msg.sender;
        prompt.executor = epochManager.drawMember(epoch, seed);
        prompt.deadlineBlock = uint64(block.number) + deadlineBlocks;
        prompt.maxTokens = maxTokens;
        prompt.tokenPrice = model.spec.unitsOfComputePerToken * epochManager.parameters().unitPrice;
        prompt.maxPrice = maxTokens * prompt.tokenPrice;
        _prompts.push(prompt);
        emit PromptSubmitted(
            promptId,
            msg.sender,
            modelId,
            model.modelCID,
            promptCID,
            maxTokens,
            prompt.maxPrice,
            prompt.executor,
            prompt.deadlineBlock
        );
        token.safeTransferFrom(msg.sender, address(this), prompt.maxPrice);
    }

    function _open(uint256 promptId) private view returns (Prompt storage prompt) {
        if (promptId >= _prompts.length) revert PromptUnknown(promptId);
        prompt = _prompts[promptId];
        if (prompt.closed) revert PromptClosed(promptId);
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
