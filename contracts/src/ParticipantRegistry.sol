// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IParticipantRegistry} from "./interfaces/IParticipantRegistry.sol";

/// @title Who takes part: accounts, the libp2p peers bound to them, their ML nodes and their collateral.
/// @notice The EVM cannot check Ed25519 cheaply, so the peer's signature over its account is only recorded here: every
/// daemon checks it and ignores a binding whose signature is false. Whoever registers a peer id first holds it; a
/// stranger who takes one gains nothing, and the owner makes a new libp2p key.
contract ParticipantRegistry is IParticipantRegistry {
    using SafeERC20 for IERC20;

    /// @notice An engine of a participant and the models it can serve, the preferred one first.
    struct MLNode {
        string nodeId;
        string[] models;
        string hardware;
    }

    /// @notice Collateral of a participant, in units of 10^-18.
    struct Collateral {
        uint256 deposited;
        uint256 unbonding;
        uint64 availableAt;
    }

    uint256 public constant PEER_ID_LENGTH_MAX = 64;
    uint256 public constant PEER_SIGNATURE_LENGTH_MAX = 128;
    /// @dev As in node/protocol/records.py: bounds what a group entry may cost to hash and check.
    uint256 public constant NODES_MAX = 64;
    uint256 public constant NODE_ID_LENGTH_MAX = 32;
    uint256 public constant MODELS_PER_NODE_MAX = 16;
    uint256 public constant HARDWARE_LENGTH_MAX = 256;

    /// @notice The token that collateral is posted in.
    IERC20 public immutable token;
    /// @notice Seconds between asking for collateral and getting it.
    uint64 public immutable unbondingSeconds;
    IModelRegistry public immutable modelRegistry;

    mapping(address participant => bytes) private _peerIds;
    /// @notice The account that holds a peer id, by its Keccak-256 hash.
    mapping(bytes32 peerIdHash => address participant) public participantOf;
    /// @notice Number of ML nodes of a participant.
    mapping(address participant => uint256) public nodeCount;
    mapping(bytes32 nodeKey => bool) private _hasNode;
    /// @dev A node serves a model if both carry the same generation: setting a node anew forgets its models at once.
    mapping(bytes32 nodeKey => uint256 generation) private _generation;
    mapping(bytes32 nodeModelKey => uint256 generation) private _serves;
    /// @notice A daily key that daemons accept in place of the account's; contracts accept the account alone.
    mapping(address participant => address) public hotKeyOf;
    mapping(address participant => Collateral) private _collateral;

    event ParticipantRegistered(address indexed participant, bytes peerId, bytes peerSignature);
    event HotKeySet(address indexed participant, address indexed hotKey);
    event MLNodeSet(address indexed participant, MLNode node);
    event MLNodeRemoved(address indexed participant, string nodeId);
    event CollateralDeposited(address indexed participant, uint256 amount, uint256 deposited);
    event CollateralUnbonding(address indexed participant, uint256 amount, uint256 unbonding, uint64 availableAt);
    event CollateralWithdrawn(address indexed participant, uint256 amount);

    error PeerIdLength(uint256 length);
    error PeerSignatureLength(uint256 length);
    error PeerIdTaken(address participant);
    error NotRegistered(address account);
    error InvalidModels(string[] modelIds);
    error InvalidNode(string nodeId, string field);
    error NodeUnknown(string nodeId);
    error TooManyNodes(uint256 max);
    error AmountZero();
    error InsufficientCollateral(uint256 wanted, uint256 available);
    error StillUnbonding(uint64 availableAt);
    error NothingToWithdraw();

    modifier onlyRegistered() {
        if (!isRegistered(msg.sender)) revert NotRegistered(msg.sender);
        _;
    }

    constructor(IModelRegistry modelRegistry_, IERC20 token_, uint64 unbondingSeconds_) {
        modelRegistry = modelRegistry_;
        token = token_;
        unbondingSeconds = unbondingSeconds_;
    }

    /// @notice Bind the caller to a libp2p peer, or to another one than before; its ML nodes stay.
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

    /// @notice Remove ML nodes, then add or replace others, all or nothing.
    /// @dev Names every model that is not registered and active in one error, so that an operator mends them at once.
    function submitHardwareDiff(MLNode[] calldata added, string[] calldata removedIds) external onlyRegistered {
        _checkModels(added);
        for (uint256 i; i < removedIds.length; ++i) {
            _removeNode(removedIds[i]);
        }
        for (uint256 i; i < added.length; ++i) {
            _setNode(added[i]);
        }
    }

    /// @notice Post collateral.
    function depositCollateral(uint256 amount) external onlyRegistered {
        if (amount == 0) revert AmountZero();
        Collateral storage collateral = _collateral[msg.sender];
        collateral.deposited += amount;
        emit CollateralDeposited(msg.sender, amount, collateral.deposited);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @notice Ask for collateral back; the waiting time starts anew for everything that unbonds.
    function requestWithdrawCollateral(uint256 amount) external {
        if (amount == 0) revert AmountZero();
        Collateral storage collateral = _collateral[msg.sender];
        if (amount > collateral.deposited) revert InsufficientCollateral(amount, collateral.deposited);
        collateral.deposited -= amount;
        collateral.unbonding += amount;
        collateral.availableAt = uint64(block.timestamp) + unbondingSeconds;
        emit CollateralUnbonding(msg.sender, amount, collateral.unbonding, collateral.availableAt);
    }

    /// @notice Take what has unbonded.
    function withdrawCollateral() external {
        Collateral storage collateral = _collateral[msg.sender];
        uint256 amount = collateral.unbonding;
        if (amount == 0) revert NothingToWithdraw();
        if (block.timestamp < collateral.availableAt) revert StillUnbonding(collateral.availableAt);
        collateral.unbonding = 0;
        emit CollateralWithdrawn(msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice The peer bound to `participant`; empty if it is not registered.
    function peerIdOf(address participant) external view returns (bytes memory) {
        return _peerIds[participant];
    }

    /// @notice Collateral of `participant`.
    function collateralOf(address participant) external view returns (Collateral memory) {
        return _collateral[participant];
    }

    /// @inheritdoc IParticipantRegistry
    function servesModel(address participant, string calldata nodeId, string calldata modelId)
        external
        view
        returns (bool)
    {
        bytes32 key = _nodeKey(participant, nodeId);
        return _hasNode[key] && _serves[keccak256(abi.encode(key, modelId))] == _generation[key];
    }

    /// @notice Whether `account` has registered.
    function isRegistered(address account) public view returns (bool) {
        return _peerIds[account].length != 0;
    }

    function _removeNode(string calldata nodeId) private {
        bytes32 key = _nodeKey(msg.sender, nodeId);
        if (!_hasNode[key]) revert NodeUnknown(nodeId);
        _hasNode[key] = false;
        nodeCount[msg.sender] -= 1;
        emit MLNodeRemoved(msg.sender, nodeId);
    }

    function _setNode(MLNode calldata node) private {
        _checkNode(node);
        bytes32 key = _nodeKey(msg.sender, node.nodeId);
        if (!_hasNode[key]) {
            if (nodeCount[msg.sender] == NODES_MAX) revert TooManyNodes(NODES_MAX);
            _hasNode[key] = true;
            nodeCount[msg.sender] += 1;
        }
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
        string[] memory offending = new string[](count);
        count = 0;
        for (uint256 i; i < added.length; ++i) {
            for (uint256 j; j < added[i].models.length; ++j) {
                if (!modelRegistry.isActive(added[i].models[j])) offending[count++] = added[i].models[j];
            }
        }
        if (count == 0) return;
        assembly ("memory-safe") {
            mstore(offending, count)
        }
        revert InvalidModels(offending);
    }

    function _checkNode(MLNode calldata node) private pure {
        if (!_isNodeId(node.nodeId)) revert InvalidNode(node.nodeId, "nodeId");
        if (node.models.length == 0 || node.models.length > MODELS_PER_NODE_MAX) {
            revert InvalidNode(node.nodeId, "models");
        }
        if (bytes(node.hardware).length > HARDWARE_LENGTH_MAX) revert InvalidNode(node.nodeId, "hardware");
    }

    /// @dev 1 to 32 characters of [a-z0-9._-].
    function _isNodeId(string calldata nodeId) private pure returns (bool) {
        bytes calldata text = bytes(nodeId);
        if (text.length == 0 || text.length > NODE_ID_LENGTH_MAX) return false;
        for (uint256 i; i < text.length; ++i) {
            bytes1 c = text[i];
            bool ok = (c >= "a" && c <= "z") || (c >= "0" && c <= "9") || c == "-" || c == "." || c == "_";
            if (!ok) return false;
        }
        return true;
    }

    function _nodeKey(address participant, string calldata nodeId) private pure returns (bytes32) {
        return keccak256(abi.encode(participant, nodeId));
    }
}
