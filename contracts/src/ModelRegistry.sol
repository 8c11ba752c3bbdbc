// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";

/// @title Which models the network serves, and which bytes each of them is.
/// @notice The owner (an account, a multisig or a timelock) publishes models by the root CID of their files. Every past
/// CID stays readable. Changes reach miners at the next epoch, because an epoch freezes what it found.
contract ModelRegistry is IModelRegistry, Ownable2Step {
    /// @notice What an engine needs to know of a model, and what its work is worth (ModelRecord in
    /// node/protocol/records.py has the units).
    struct ModelSpec {
        string hfRepo;
        string hfCommit;
        string[] modelArgs;
        uint32 vramMiB;
        uint64 throughputPerNonce;
        uint64 unitsOfComputePerToken;
        uint32 contextLength;
        uint64 pocDistanceMax;
    }

    /// @notice A model as it stands.
    struct ModelInfo {
        string modelId;
        string cid;
        string name;
        string description;
        bool active;
        uint32 version;
        address owner;
        ModelSpec spec;
    }

    /// @dev These bounds keep a record readable in one call and cheap to hash off chain.
    uint256 public constant MODEL_ID_LENGTH_MAX = 64;
    uint256 public constant TEXT_LENGTH_MAX = 512;
    uint256 public constant MODEL_ARGS_MAX = 64;
    /// @dev `getActiveModels` reads them all in one call: more would outgrow what endpoints answer.
    uint256 public constant MODELS_MAX = 256;

    mapping(bytes32 idHash => ModelInfo) private _models;
    mapping(bytes32 idHash => string[]) private _cids;
    string[] private _modelIds;

    event ModelRegistered(string indexed modelId, string modelCID, string name, address indexed owner);
    event ModelUpdated(string indexed modelId, string newModelCID, address indexed owner);
    event ModelDeactivated(string indexed modelId, address indexed owner);
    /// @notice The model's state after any change, readable without a call (indexed text is only a hash).
    event ModelRecorded(string modelId, ModelInfo info);

    error ModelExists(string modelId);
    error ModelUnknown(string modelId);
    error ModelNotActive(string modelId);
    error VersionUnknown(string modelId, uint32 version);
    error InvalidModelId(string modelId);
    error TextLength(string field, uint256 length, uint256 max);
    error SpecOutOfRange(string field);
    error TooManyModels(uint256 max);

    constructor(address initialOwner) Ownable(initialOwner) {}

    /// @notice Register a model with a plain specification, to be refined by `setModelSpec`.
    /// @dev The defaults price a token at one unit of compute, ask for no video memory and accept a context of 2048
    /// tokens. `pocDistanceMax` is zero: only vectors that are equal bit by bit pass.
    function registerModel(
        string calldata modelId,
        string calldata modelCID,
        string calldata name,
        string calldata description
    ) external onlyOwner {
        ModelSpec memory spec;
        spec.contextLength = 2048;
        spec.throughputPerNonce = 1;
        spec.unitsOfComputePerToken = 1;
        _register(modelId, modelCID, name, description, spec);
    }

    /// @notice Register a model with its full specification.
    function registerModelWithSpec(
        string calldata modelId,
        string calldata modelCID,
        string calldata name,
        string calldata description,
        ModelSpec calldata spec
    ) external onlyOwner {
        _register(modelId, modelCID, name, description, spec);
    }

    /// @notice Replace a model's specification; its CID and version stay.
    function setModelSpec(string calldata modelId, ModelSpec calldata spec) external onlyOwner {
        ModelInfo storage info = _existing(modelId);
        _checkSpec(spec);
        info.spec = spec;
        emit ModelRecorded(modelId, info);
    }

    /// @notice Publish a new version of a model; it becomes active again if it was not.
    function updateModel(string calldata modelId, string calldata newModelCID) external onlyOwner {
        ModelInfo storage info = _existing(modelId);
        _checkText("modelCID", newModelCID, 1);
        info.cid = newModelCID;
        info.version += 1;
        info.active = true;
        info.owner = msg.sender;
        _cids[keccak256(bytes(modelId))].push(newModelCID);
        emit ModelUpdated(modelId, newModelCID, msg.sender);
        emit ModelRecorded(modelId, info);
    }

    /// @notice Take a model out of service from the next epoch on.
    function deactivateModel(string calldata modelId) external onlyOwner {
        ModelInfo storage info = _existing(modelId);
        if (!info.active) revert ModelNotActive(modelId);
        info.active = false;
        emit ModelDeactivated(modelId, msg.sender);
        emit ModelRecorded(modelId, info);
    }

    /// @notice A model's state.
    function getModel(string calldata modelId) external view returns (ModelInfo memory) {
        return _existing(modelId);
    }

    /// @notice Ids of all active models, in the order of registration.
    function getActiveModels() external view returns (string[] memory modelIds) {
        uint256 count;
        modelIds = new string[](_modelIds.length);
        for (uint256 i; i < _modelIds.length; ++i) {
            if (_models[keccak256(bytes(_modelIds[i]))].active) modelIds[count++] = _modelIds[i];
        }
        assembly ("memory-safe") {
            mstore(modelIds, count)
        }
    }

    /// @notice The CID of version `version` (1 is the first) of a model.
    function cidAt(string calldata modelId, uint32 version) external view returns (string memory) {
        if (version == 0 || version > _existing(modelId).version) revert VersionUnknown(modelId, version);
        return _cids[keccak256(bytes(modelId))][version - 1];
    }

    /// @inheritdoc IModelRegistry
    function isActive(string calldata modelId) external view returns (bool) {
        return _models[keccak256(bytes(modelId))].active;
    }

    /// @inheritdoc IModelRegistry
    function resolve(string calldata modelId)
        external
        view
        returns (string memory cid, uint32 version, uint64 unitsOfComputePerToken)
    {
        ModelInfo storage info = _existing(modelId);
        if (!info.active) revert ModelNotActive(modelId);
        return (info.cid, info.version, info.spec.unitsOfComputePerToken);
    }

    function _register(
        string calldata modelId,
        string calldata modelCID,
        string calldata name,
        string calldata description,
        ModelSpec memory spec
    ) private {
        _checkModelId(modelId);
        _checkText("modelCID", modelCID, 1);
        _checkText("name", name, 1);
        _checkText("description", description, 0);
        _checkSpec(spec);
        bytes32 idHash = keccak256(bytes(modelId));
        if (_models[idHash].version != 0) revert ModelExists(modelId);
        if (_modelIds.length == MODELS_MAX) revert TooManyModels(MODELS_MAX);
        _models[idHash] = ModelInfo(modelId, modelCID, name, description, true, 1, msg.sender, spec);
        _cids[idHash].push(modelCID);
        _modelIds.push(modelId);
        emit ModelRegistered(modelId, modelCID, name, msg.sender);
        emit ModelRecorded(modelId, _models[idHash]);
    }

    function _existing(string calldata modelId) private view returns (ModelInfo storage info) {
        info = _models[keccak256(bytes(modelId))];
        if (info.version == 0) revert ModelUnknown(modelId);
    }

    function _checkModelId(string calldata modelId) private pure {
        bytes calldata text = bytes(modelId);
        if (text.length == 0 || text.length > MODEL_ID_LENGTH_MAX) revert InvalidModelId(modelId);
        for (uint256 i; i < text.length; ++i) {
            bytes1 c = text[i];
            // "-", ".", "/" and the digits are neighbours in ASCII.
            bool ok = (c >= "a" && c <= "z") || (c >= "-" && c <= "9") || c == "_";
            if (!ok) revert InvalidModelId(modelId);
        }
    }

    function _checkSpec(ModelSpec memory spec) private pure {
        if (spec.contextLength == 0) revert SpecOutOfRange("contextLength");
        if (spec.throughputPerNonce == 0) revert SpecOutOfRange("throughputPerNonce");
        if (spec.unitsOfComputePerToken == 0) revert SpecOutOfRange("unitsOfComputePerToken");
        if (bytes(spec.hfRepo).length > TEXT_LENGTH_MAX) revert SpecOutOfRange("hfRepo");
        if (bytes(spec.hfCommit).length > TEXT_LENGTH_MAX) revert SpecOutOfRange("hfCommit");
        if (spec.modelArgs.length > MODEL_ARGS_MAX) revert SpecOutOfRange("modelArgs");
        for (uint256 i; i < spec.modelArgs.length; ++i) {
            if (bytes(spec.modelArgs[i]).length > TEXT_LENGTH_MAX) revert SpecOutOfRange("modelArgs");
        }
    }

    function _checkText(string memory field, string calldata text, uint256 min) private pure {
        uint256 length = bytes(text).length;
        if (length < min || length > TEXT_LENGTH_MAX) revert TextLength(field, length, TEXT_LENGTH_MAX);
    }
}
