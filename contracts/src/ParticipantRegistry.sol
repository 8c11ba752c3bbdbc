// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ModelRegistry} from "./ModelRegistry.sol";

/// @title Who takes part: accounts, the libp2p peers bound to them, their ML nodes and their collateral.
/// @notice The EVM cannot check Ed25519 cheaply, so the peer's signature over its account is only recorded here. Every
/// daemon checks it before it believes the binding; a false one harms nobody but its author, who is not reachable.
contract ParticipantRegistry {
    using SafeERC20 for IERC20;

    /// @notice An engine of a participant and the models it can serve, the preferred one first.
    struct MLNode {
        string nodeId;
        string[] models;
        string hardware;
    }

    uint256 public constant PEER_ID_LENGTH_MAX = 64;
    uint256 public constant PEER_SIGNATURE_LENGTH_MAX = 128;
    uint256 public constant NODES_MAX = 64;
    uint256 public constant NODE_ID_LENGTH_MAX = 32;
    uint256 public constant MODELS_PER_NODE_MAX = 16;
    uint256 public constant HARDWARE_LENGTH_MAX = 256;

    /// @notice The token that collateral is posted in.
    IERC20 public immutable token;
    /// @notice Seconds between asking for collateral and getting it.
    uint64 public immutable unbondingSeconds;
    ModelRegistry public immutable modelRegistry;

    mapping(address participant => bytes) private _peerIds;
    mapping(bytes32 peerIdHash => address participant) public participantOf;
    mapping(address participant => uint256) public nodeCount;
    mapping(bytes32 nodeKey => bool) private _hasNode;
    mapping(bytes32 nodeModelKey => uint256 generation) private _serves;
    mapping(bytes32 nodeKey => uint256 generation) private _generation;
    /// @notice A daily key that may act for a participant, so that the account key can stay cold.
    mapping(address participant => address) public hotKeyOf;
    mapping(address participant => uint256) public collateralOf;
    mapping(address participant => uint256) public unbondingOf;
    mapping(address participant => uint64) public unbondsAt;

    event ParticipantRegistered(address indexed participant, bytes peerId, bytes peerSignature);
    event HotKeySet(address indexed participant, address hotKey);
    event MLNodeSet(address indexed participant, MLNode node);
    event MLNodeRemoved(address indexed participant, string nodeId);
    event CollateralDeposited(address indexed participant, uint256 amount, uint256 total);
    event UnbondingStarted(address indexed participant, uint256 amount, uint64 availableAt);
    event CollateralWithdrawn(address indexed participant, uint256 amount);

    error PeerIdLength(uint256 length);
    error PeerSignatureLength(uint256 length);
    error PeerIdTaken(address participant);
    error NotRegistered(address account);
    error InvalidModels(string[] modelIds);
    error InvalidNode(string nodeId, string field);
    error NodeUnknown(string nodeId);
    error TooManyNodes(uint256 max);
    error InsufficientCollateral(uint256 wanted, uint256 available);
    error StillUnbonding(uint64 availableAt);
    error NothingToWithdraw();

    modifier onlyRegistered() {
        if (!isRegistered(msg.sender)) revert NotRegistered(msg.sender);
        _;
    }

    constructor(ModelRegistry modelRegistry_, IERC20 token_, uint64 unbondingSeconds_) {
        modelRegistry = modelRegistry_;
        token = token_;
        unbondingSeconds = unbondingSeconds_;
    }

    /// @notice Bind the caller to a libp2p peer, or to another one than before.
    /// @param peerId The peer id's multihash bytes.
    /// @param peerSignature The peer key's signature over the binding text; checked off chain.
    function register(bytes calldata peerId, bytes calldata peerSignature) external {
        if (peerId.length == 0 || peerId.length > PEER_ID_LENGTH_MAX) revert PeerIdLength(peerId.length);
        if (peerSignature.length > PEER_SIGNATURE_LENGTH_MAX) revert PeerSignatureLength(peerSignature.length);
        address holder = participantOf[keccak256(peerId)];
        if (holder != address(0) && holder != msg.sender) revert PeerIdTaken(holder);
        if (isRegistered(msg.sender)) delete participantOf[keccak256(_peerIds[msg.sender])];
        participantOf[keccak256(peerId)] = msg.sender;
        _peerIds[msg.sender] = peerId;
        emit ParticipantRegistered(msg.sender, peerId, peerSignature);
    }

    /// @notice Delegate to a hot key, or take the delegation back with the zero address.
    function setHotKey(address hotKey) external onlyRegistered {
        hotKeyOf[msg.sender] = hotKey;
        emit HotKeySet(msg.sender, hotKey);
    }

    /// @notice Add or replace ML nodes and remove others, all or nothing.
    /// @dev Names every model that is not registered and active in one error, so that an operator mends them at once.
    function submitHardwareDiff(MLNode[] calldata added, string[] calldata removed) external onlyRegistered {
        _checkModels(added);
        for (uint256 i; i < removed.length; ++i) {
            bytes32 key = _nodeKey(msg.sender, removed[i]);
            if (!_hasNode[key]) revert NodeUnknown(removed[i]);
            _hasNode[key] = false;
            _generation[key] += 1;
            nodeCount[msg.sender] -= 1;
            emit MLNodeRemoved(msg.sender, removed[i]);
        }
        for (uint256 i; i < added.length; ++i) {
            _setNode(added[i]);
        }
    }

    /// @notice Post collateral.
    function depositCollateral(uint256 amount) external onlyRegistered {
        collateralOf[msg.sender] += amount;
        emit CollateralDeposited(msg.sender, amount, collateralOf[msg.sender]);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @notice Ask for collateral back; the waiting time starts anew for everything that unbonds.
    function startUnbonding(uint256 amount) external {
        uint256 available = collateralOf[msg.sender];
        if (amount > available) revert InsufficientCollateral(amount, available);
        collateralOf[msg.sender] = available - amount;
        unbondingOf[msg.sender] += amount;
        unbondsAt[msg.sender] = uint64(block.timestamp) + unbondingSeconds;
        emit UnbondingStarted(msg.sender, amount, unbondsAt[msg.sender]);
    }

    /// @notice Take what has unbonded.
    function withdrawCollateral() external {
        uint256 amount = unbondingOf[msg.sender];
        if (amount == 0) revert NothingToWithdraw();
        if (block.timestamp < unbondsAt[msg.sender]) revert StillUnbonding(unbondsAt[msg.sender]);
        unbondingOf[msg.sender] = 0;
        emit CollateralWithdrawn(msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice The peer bound to `participant`; empty if it is not registered.
    function peerIdOf(address participant) external view returns (bytes memory) {
        return _peerIds[participant];
    }

    /// @notice Whether `account` has registered.
    function isRegistered(address account) public view returns (bool) {
        return _peerIds[account].length != 0;
    }

    /// @notice Whether `participant` has registered node `nodeId` for `modelId`.
    function servesModel(address participant, string calldata nodeId, string calldata modelId)
        external
        view
        returns (bool)
    {
        bytes32 key = _nodeKey(participant, nodeId);
        return _hasNode[key] && _serves[keccak256(abi.encode(key, modelId))] == _generation[key];
    }

    function _setNode(MLNode calldata node) private {
        _checkNode(node);
        bytes32 key = _nodeKey(msg.sender, node.nodeId);
        if (!_hasNode[key]) {
            if (nodeCount[msg.sender] == NODES_MAX) revert TooManyNodes(NODES_MAX);
            _hasNode[key] = true;
            nodeCount[msg.sender] += 1;
        }
        // A new generation forgets the models of the entry before it without a loop over them.
        uint256 generation = ++_generation[key];
        for (uint256 i; i < node.models.length; ++i) {
            _serves[keccak256(abi.encode(key, node.models[i]))] = generation;
        }
        emit MLNodeSet(msg.sender, node);
    }

    function _checkModels(MLNode[] calldata added) private view {
        uint256 count;
        for (uint256 i; i < added.length; ++i) {
            count += added[i].models.length;
        }
        string[] memory unknown = new string[](count);
        count = 0;
        for (uint256 i; i < added.length; ++i) {
            for (uint256 j; j < added[i].models.length; ++j) {
                if (!modelRegistry.isActive(added[i].models[j])) unknown[count++] = added[i].models[j];
            }
        }
        if (count == 0) return;
        assembly ("memory-safe") {
            mstore(unknown, count)
        }
        revert InvalidModels(unknown);
    }

    function _checkNode(MLNode calldata node) private pure {
        uint256 idLength = bytes(node.nodeId).length;
        if (idLength == 0 || idLength > NODE_ID_LENGTH_MAX) revert InvalidNode(node.nodeId, "nodeId");
        if (node.models.length == 0 || node.models.length > MODELS_PER_NODE_MAX) {
            revert InvalidNode(node.nodeId, "models");
        }
        if (bytes(node.hardware).length > HARDWARE_LENGTH_MAX) revert InvalidNode(node.nodeId, "hardware");
    }

    function _nodeKey(address participant, string calldata nodeId) private pure returns (bytes32) {
        return keccak256(abi.encode(participant, nodeId));
    }
}
