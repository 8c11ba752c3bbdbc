// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";

/// @title Which models the network serves, and which bytes each of them is.
/// @notice The owner (an account, a multisig or a timelock that executes votes) publishes models by the root CID of
/// their files. Every past CID stays readable. Changes reach miners at the next epoch, because an epoch freezes what it
/// found.
contract ModelRegistry is IModelRegistry, Ownable2Step {
    /// @notice What an engine needs to know of a model, what its work is worth, and who may use it (ModelRecord in
    /// node/protocol/records.py has the units).
    struct ModelSpec {
        string hfRepo;
        string hfCommit;
        string[] modelArgs;
        /// Weight quantization as engines name it (`fp8`, `awq`, …); empty for none.
        string quantization;
        /// Quantization of the key-value cache; empty for the weights' own type.
        string kvCacheQuantization;
        uint32 vramMib;
        uint64 throughputPerNonce;
        uint64 unitsOfComputePerToken;
        uint32 contextLength;
        uint64 pocDistanceMax;
        /// Access is sold or token-gated (see AccessVault).
        bool gated;
        /// The files behind the CID are encrypted; keys are in the AccessVault.
        bool encrypted;
        /// Who proposed the model, sets its gate and is paid for access; the registering account if zero.
        address proposer;
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

    /// @notice A model with all its past, as one registry exports it and the next one imports it.
    struct ModelImport {
        string modelId;
        string name;
        string description;
        bool active;
        ModelSpec spec;
        /// All versions, the first one first; the last one is current.
        string[] cids;
        /// Of the current version (see `setCalibration`); empty for none, and in what `exportModel` returns, because its
        /// bytes are in the event only.
        bytes calibration;
    }

    /// @dev These bounds keep a record readable in one call and cheap to hash off chain.
    uint256 public constant MODEL_ID_LENGTH_MAX = 64;
    uint256 public constant TEXT_LENGTH_MAX = 512;
    uint256 public constant MODEL_ARGS_MAX = 64;
    /// @dev `getActiveModels` reads them all in one call: more would outgrow what endpoints answer.
    uint256 public constant MODELS_MAX = 256;
    /// @dev As in node/protocol/calibration.py, whose largest record takes less.
    uint256 public constant CALIBRATION_BYTES_MAX = 4096;

    /// @notice May import models until it calls `finishImport`: the deployer of a new network; zero afterwards.
    address public importer;

    mapping(bytes32 idHash => ModelInfo) private _models;
    mapping(bytes32 idHash => string[]) private _cids;
    string[] private _modelIds;
    /// @dev One word for each version that has one: the bytes are in the event.
    mapping(bytes32 idHash => mapping(uint32 version => bytes32)) private _calibrations;

    event ModelRegistered(string indexed modelId, string modelCID, string name, address indexed owner);
    event ModelUpdated(string indexed modelId, string newModelCID, address indexed owner);
    event ModelDeactivated(string indexed modelId, address indexed owner);
    /// @notice The model's state after any change, readable without a call (indexed text is only a hash).
    event ModelRecorded(string modelId, ModelInfo info);
    /// @notice How far honest nodes may differ in `version` of the model, the current one; empty if that was taken back.
    event ModelCalibrated(string modelId, uint32 version, bytes calibration);
    event ImportFinished(uint256 models);

    error ModelExists(string modelId);
    error ModelUnknown(string modelId);
    error ModelNotActive(string modelId);
    error VersionUnknown(string modelId, uint32 version);
    error InvalidModelId(string modelId);
    error TextLength(string field, uint256 length, uint256 max);
    error SpecOutOfRange(string field);
    error TooManyModels(uint256 max);
    error NotTheImporter(address caller, address importer);
    error NoVersions(string modelId);
    error NotTheVersion(string modelId, uint32 version, uint32 current);
    error CalibrationTooLong(uint256 length, uint256 max);

    /// @param initialOwner Who publishes models from now on. The deployer may import models of a genesis file first.
    constructor(address initialOwner) Ownable(initialOwner) {
        importer = msg.sender;
    }

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
        _register(modelId, modelCID, name, description, spec, true);
    }

    /// @notice Register a model with its full specification.
    function registerModelWithSpec(
        string calldata modelId,
        string calldata modelCID,
        string calldata name,
        string calldata description,
        ModelSpec calldata spec
    ) external onlyOwner {
        _register(modelId, modelCID, name, description, spec, true);
    }

    /// @notice Replace a model's specification; its CID and version stay. A proposer of zero keeps the present one.
    function setModelSpec(string calldata modelId, ModelSpec calldata spec) external onlyOwner {
        ModelInfo storage info = _existing(modelId);
        _checkSpec(spec);
        address proposer = info.spec.proposer;
        info.spec = spec;
        if (spec.proposer == address(0)) info.spec.proposer = proposer;
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

    /// @notice Publish how far honest nodes may differ: a canonical Calibration (node/protocol/calibration.py), which the
    /// chain does not read. It counts from the next epoch on and falls with its version: a new one has none.
    /// @param version The current version, which was measured: a calibration that an update overtook is refused.
    /// @param calibration Empty takes the present one back.
    function setCalibration(string calldata modelId, uint32 version, bytes calldata calibration) external onlyOwner {
        uint32 current = _existing(modelId).version;
        if (version != current) revert NotTheVersion(modelId, version, current);
        _calibrate(modelId, version, calibration);
    }

    /// @notice Register a model of a genesis file, with all its past versions. Only the importer may.
    function importModel(ModelImport calldata model) external {
        if (msg.sender != importer) revert NotTheImporter(msg.sender, importer);
        uint256 versions = model.cids.length;
        if (versions == 0) revert NoVersions(model.modelId);
        _register(model.modelId, model.cids[0], model.name, model.description, model.spec, model.active);
        bytes32 idHash = keccak256(bytes(model.modelId));
        ModelInfo storage info = _models[idHash];
        for (uint256 i = 1; i < versions; ++i) {
            _checkText("modelCID", model.cids[i], 1);
            _cids[idHash].push(model.cids[i]);
        }
        info.cid = model.cids[versions - 1];
        info.version = uint32(versions);
        emit ModelRecorded(model.modelId, info);
        if (model.calibration.length > 0) _calibrate(model.modelId, uint32(versions), model.calibration);
    }

    /// @notice End the import, for ever: from now on only the owner publishes.
    function finishImport() external {
        if (msg.sender != importer) revert NotTheImporter(msg.sender, importer);
        importer = address(0);
        emit ImportFinished(_modelIds.length);
    }

    /// @notice A model's state.
    function getModel(string calldata modelId) external view returns (ModelInfo memory) {
        return _existing(modelId);
    }

    /// @notice Number of models ever registered.
    function modelCount() external view returns (uint256) {
        return _modelIds.length;
    }

    /// @notice Model number `index`, in the order of registration, with all its versions: what `importModel` takes.
    function exportModel(uint256 index) external view returns (ModelImport memory) {
        string memory modelId = _modelIds[index];
        bytes32 idHash = keccak256(bytes(modelId));
        ModelInfo storage info = _models[idHash];
        return ModelImport(modelId, info.name, info.description, info.active, info.spec, _cids[idHash], "");
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

    /// @notice Keccak-256 of the calibration of a version; zero if it has none.
    function calibrationHashOf(string calldata modelId, uint32 version) external view returns (bytes32) {
        return _calibrations[keccak256(bytes(modelId))][version];
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

    /// @inheritdoc IModelRegistry
    function accessOf(string calldata modelId) external view returns (address proposer, bool gated) {
        ModelSpec storage spec = _existing(modelId).spec;
        return (spec.proposer, spec.gated);
    }

    function _register(
        string calldata modelId,
        string calldata modelCID,
        string calldata name,
        string calldata description,
        ModelSpec memory spec,
        bool active
    ) private {
        _checkModelId(modelId);
        _checkText("modelCID", modelCID, 1);
        _checkText("name", name, 1);
        _checkText("description", description, 0);
        _checkSpec(spec);
        if (spec.proposer == address(0)) spec.proposer = msg.sender;
        bytes32 idHash = keccak256(bytes(modelId));
        if (_models[idHash].version != 0) revert ModelExists(modelId);
        if (_modelIds.length == MODELS_MAX) revert TooManyModels(MODELS_MAX);
        _models[idHash] = ModelInfo(modelId, modelCID, name, description, active, 1, msg.sender, spec);
        _cids[idHash].push(modelCID);
        _modelIds.push(modelId);
        emit ModelRegistered(modelId, modelCID, name, msg.sender);
        emit ModelRecorded(modelId, _models[idHash]);
    }

    function _calibrate(string calldata modelId, uint32 version, bytes calldata calibration) private {
        uint256 length = calibration.length;
        if (length > CALIBRATION_BYTES_MAX) revert CalibrationTooLong(length, CALIBRATION_BYTES_MAX);
        _calibrations[keccak256(bytes(modelId))][version] = length == 0 ? bytes32(0) : keccak256(calibration);
        emit ModelCalibrated(modelId, version, calibration);
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
        if (bytes(spec.quantization).length > MODEL_ID_LENGTH_MAX) revert SpecOutOfRange("quantization");
        if (bytes(spec.kvCacheQuantization).length > MODEL_ID_LENGTH_MAX) revert SpecOutOfRange("kvCacheQuantization");
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
