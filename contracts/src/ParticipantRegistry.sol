// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IParticipantRegistry} from "./interfaces/IParticipantRegistry.sol";

/// @title Who takes part: accounts, the libp2p peers bound to them, their ML nodes and their collateral.
/// @notice A peer id is an Ed25519 key, and the EVM has no precompile for Ed25519: checking one signature in Solidity
/// costs over half a million gas. So the peer key's signature over the account is recorded here and checked by every
/// daemon, which ignores a binding whose signature is false. That is also why a peer id is not reserved for whoever
/// names it first: the chain cannot tell its owner from a squatter, and daemons can.
contract ParticipantRegistry is IParticipantRegistry, Ownable2Step {
    using SafeERC20 for IERC20;

    /// @notice How a participant stands. Proofs count of those who are ACTIVE and not barred.
    enum Status {
        UNREGISTERED,
        ACTIVE,
        UNDERCOLLATERALISED
    }

    /// @notice An engine of a participant and the models it can serve, the preferred one first.
    struct MLNode {
        string nodeId;
        string[] models;
        string hardware;
    }

    /// @notice Collateral of a participant in units of 10^-18.
    struct Collateral {
        uint128 deposited;
        /// UNIX seconds from which everything that is unbonding may be withdrawn.
        uint64 availableAt;
        /// First epoch whose proofs of this participant count; daemons leave out its batches before.
        uint64 barredUntil;
        uint128 unbonding;
    }

    uint256 public constant PEER_ID_LENGTH_MAX = 64;
    uint256 public constant PEER_SIGNATURE_LENGTH_MAX = 128;
    /// @dev As in node/protocol/records.py: bounds what a group entry may cost to hash and check.
    uint256 public constant NODES_MAX = 64;
    uint256 public constant NODE_ID_LENGTH_MAX = 32;
    uint256 public constant MODELS_PER_NODE_MAX = 16;
    uint256 public constant HARDWARE_LENGTH_MAX = 256;

    /// @notice The token that collateral is posted in.
    ERC20Burnable public immutable token;
    /// @notice Seconds between asking for collateral and getting it; slashing reaches it for as long.
    uint64 public immutable unbondingSeconds;
    IModelRegistry public immutable modelRegistry;
    /// @dev Names the slasher once; has no other right.
    address private immutable _deployer;

    /// @notice The only caller of `slash`; set once by the deployer.
    address public slasher;
    /// @notice Collateral a participant needs for its proofs to count, in units of 10^-18; set by the owner. Daemons apply
    /// it, like bars, when they form a result: asking here for every commitment would cost all miners gas.
    uint128 public minCollateral;

    mapping(address participant => bytes) private _peerIds;
    /// @notice Number of ML nodes of a participant.
    mapping(address participant => uint256) public nodeCount;
    /// @dev Twice the generation of a node, plus one while it is registered. A node serves a model if the model carries
    /// the node's value: setting a node anew forgets its models at once, and so does removing it.
    mapping(bytes32 nodeKey => uint256) private _nodes;
    mapping(bytes32 nodeModelKey => uint256) private _serves;
    /// @notice A daily key that daemons accept in place of the account's; contracts accept the account alone.
    mapping(address participant => address) public hotKeyOf;
    mapping(address participant => Collateral) private _collateral;

    event ParticipantRegistered(address indexed participant, bytes peerId, bytes peerSignature);
    event ParticipantLeft(address indexed participant);
    event HotKeySet(address indexed participant, address indexed hotKey);
    event MLNodeSet(address indexed participant, MLNode node);
    event MLNodeRemoved(address indexed participant, string nodeId);
    event CollateralDeposited(address indexed participant, uint256 amount, uint256 deposited);
    event CollateralUnbonding(
        address indexed participant, uint256 amount, uint256 deposited, uint256 unbonding, uint64 availableAt
    );
    event CollateralWithdrawn(address indexed participant, uint256 amount);
    event CollateralSlashed(
        address indexed participant, uint256 amount, uint256 deposited, uint256 unbonding, uint64 barredUntil
    );
    event MinCollateralSet(uint256 minCollateral);
    event SlasherSet(address indexed slasher);

    error PeerIdLength(uint256 length);
    error PeerSignatureLength(uint256 length);
    error NotRegistered(address account);
    error InvalidModels(string[] modelIds);
    error InvalidNode(string nodeId, string field);
    error NodeUnknown(string nodeId);
    error NodesRemain(uint256 count);
    error TooManyNodes(uint256 max);
    error AmountZero();
    error InsufficientCollateral(uint256 wanted, uint256 available);
    error StillUnbonding(uint64 availableAt);
    error NothingToWithdraw();
    error NotTheSlasher(address caller);
    error NotTheDeployer(address caller);
    error SlasherAlreadySet(address slasher);
    error SlasherHasNoCode(address account);

    modifier onlyRegistered() {
        if (!isRegistered(msg.sender)) revert NotRegistered(msg.sender);
        _;
    }

    /// @param initialOwner Sets the collateral that mining needs: governance.
    constructor(
        IModelRegistry modelRegistry_,
        ERC20Burnable token_,
        uint64 unbondingSeconds_,
        uint128 minCollateral_,
        address initialOwner
    ) Ownable(initialOwner) {
        modelRegistry = modelRegistry_;
        token = token_;
        unbondingSeconds = unbondingSeconds_;
        minCollateral = minCollateral_;
        _deployer = msg.sender;
        emit MinCollateralSet(minCollateral_);
    }

    /// @notice Name the Slashing contract, once and for all. Only the deployer may.
    function setSlasher(address slasher_) external {
        if (msg.sender != _deployer) revert NotTheDeployer(msg.sender);
        if (slasher != address(0)) revert SlasherAlreadySet(slasher);
        if (slasher_.code.length == 0) revert SlasherHasNoCode(slasher_);
        slasher = slasher_;
        emit SlasherSet(slasher_);
    }

    /// @notice Set the collateral that proofs need to count.
    function setMinCollateral(uint128 newMinCollateral) external onlyOwner {
        minCollateral = newMinCollateral;
        emit MinCollateralSet(newMinCollateral);
    }

    /// @notice Bind the caller to a libp2p peer, or to another one than before; its ML nodes stay.
    /// @param peerId The peer id's multihash bytes.
    /// @param peerSignature The peer key's signature over the binding text; checked off chain.
    function register(bytes calldata peerId, bytes calldata peerSignature) external {
        if (peerId.length == 0 || peerId.length > PEER_ID_LENGTH_MAX) revert PeerIdLength(peerId.length);
        if (peerSignature.length > PEER_SIGNATURE_LENGTH_MAX) revert PeerSignatureLength(peerSignature.length);
        _peerIds[msg.sender] = peerId;
        emit ParticipantRegistered(msg.sender, peerId, peerSignature);
    }

    /// @notice Give up the registration. Collateral stays the caller's, and is slashable until it is withdrawn.
    /// @param nodeIds All ML nodes of the caller.
    function unregister(string[] calldata nodeIds) external onlyRegistered {
        for (uint256 i; i < nodeIds.length; ++i) {
            _removeNode(nodeIds[i]);
        }
        if (nodeCount[msg.sender] != 0) revert NodesRemain(nodeCount[msg.sender]);
        delete _peerIds[msg.sender];
        delete hotKeyOf[msg.sender];
        emit ParticipantLeft(msg.sender);
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
        collateral.deposited += SafeCast.toUint128(amount);
        emit CollateralDeposited(msg.sender, amount, collateral.deposited);
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @notice Ask for collateral back; the waiting time starts anew for everything that unbonds.
    function requestWithdrawCollateral(uint256 amount) external {
        if (amount == 0) revert AmountZero();
        Collateral storage collateral = _collateral[msg.sender];
        if (amount > collateral.deposited) revert InsufficientCollateral(amount, collateral.deposited);
        collateral.deposited -= uint128(amount);
        collateral.unbonding += uint128(amount);
        collateral.availableAt = uint64(block.timestamp) + unbondingSeconds;
        emit CollateralUnbonding(msg.sender, amount, collateral.deposited, collateral.unbonding, collateral.availableAt);
    }

    /// @notice Take what has unbonded.
    function withdrawCollateral() external {
        Collateral storage collateral = _collateral[msg.sender];
        uint256 amount = collateral.unbonding;
        if (amount == 0) revert NothingToWithdraw();
        if (block.timestamp < collateral.availableAt) revert StillUnbonding(collateral.availableAt);
        collateral.unbonding = 0;
        emit CollateralWithdrawn(msg.sender, amount);
        IERC20(token).safeTransfer(msg.sender, amount);
    }

    /// @inheritdoc IParticipantRegistry
    /// @dev Burned rather than given to anyone: a quorum that slashes falsely gains nothing by it.
    function slash(address participant, uint256 perMille, uint64 barredUntil) external returns (uint256 amount) {
        if (msg.sender != slasher) revert NotTheSlasher(msg.sender);
        Collateral storage collateral = _collateral[participant];
        uint256 deposited = collateral.deposited;
        uint256 fromDeposited = deposited * perMille / 1000;
        uint256 unbonding = collateral.unbonding;
        uint256 fromUnbonding = unbonding * perMille / 1000;
        amount = fromDeposited + fromUnbonding;
        collateral.deposited = uint128(deposited - fromDeposited);
        collateral.unbonding = uint128(unbonding - fromUnbonding);
        if (barredUntil > collateral.barredUntil) collateral.barredUntil = barredUntil;
        emit CollateralSlashed(participant, amount, collateral.deposited, collateral.unbonding, collateral.barredUntil);
        if (amount != 0) token.burn(amount);
    }

    /// @notice The peer bound to `participant`; empty if it is not registered.
    function peerIdOf(address participant) external view returns (bytes memory) {
        return _peerIds[participant];
    }

    /// @notice Collateral of `participant`.
    function collateralOf(address participant) external view returns (Collateral memory) {
        return _collateral[participant];
    }

    /// @notice How `participant` stands.
    function statusOf(address participant) external view returns (Status) {
        if (!isRegistered(participant)) return Status.UNREGISTERED;
        return _collateral[participant].deposited < minCollateral ? Status.UNDERCOLLATERALISED : Status.ACTIVE;
    }

    /// @inheritdoc IParticipantRegistry
    /// @dev Nodes exist only while their participant is registered (see `unregister`), so that need not be asked again.
    function servesModel(address participant, string calldata nodeId, string calldata modelId)
        external
        view
        returns (bool)
    {
        bytes32 key = _nodeKey(participant, nodeId);
        uint256 node = _nodes[key];
        return node & 1 == 1 && _serves[keccak256(abi.encode(key, modelId))] == node;
    }

    /// @notice Whether `account` has registered.
    function isRegistered(address account) public view returns (bool) {
        return _peerIds[account].length != 0;
    }

    function _removeNode(string calldata nodeId) private {
        bytes32 key = _nodeKey(msg.sender, nodeId);
        uint256 node = _nodes[key];
        if (node & 1 == 0) revert NodeUnknown(nodeId);
        _nodes[key] = node + 1;
        nodeCount[msg.sender] -= 1;
        emit MLNodeRemoved(msg.sender, nodeId);
    }

    function _setNode(MLNode calldata node) private {
        _checkNode(node);
        bytes32 key = _nodeKey(msg.sender, node.nodeId);
        uint256 value = _nodes[key];
        if (value & 1 == 0) {
            if (nodeCount[msg.sender] == NODES_MAX) revert TooManyNodes(NODES_MAX);
            nodeCount[msg.sender] += 1;
            value += 1;
        } else {
            value += 2;
        }
        _nodes[key] = value;
        for (uint256 i; i < node.models.length; ++i) {
            _serves[keccak256(abi.encode(key, node.models[i]))] = value;
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
