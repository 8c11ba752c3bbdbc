// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";

/// @title Who may use a gated model: holders of a token, buyers, and whom its proposer lets in; and their wrapped keys.
/// @notice The proposer named by the ModelRegistry sets the gate. A purchase goes whole to the proposer in the same
/// transaction; nothing stays here, and the contract refuses a token that delivers less than it was asked for. A gate
/// may be changed, but never takes back what was bought before its time is over; a proposer may revoke single accounts,
/// in public.
contract AccessVault is EIP712 {
    using SafeERC20 for IERC20;

    /// @notice What access costs. A buyer names the offer it takes: one that was changed meanwhile is not taken.
    struct Offer {
        /// E.g. a stablecoin; zero if access is not for sale.
        IERC20 payToken;
        uint256 price;
        /// Seconds a purchase lasts; zero for ever.
        uint64 accessSeconds;
    }

    /// @notice How access to a model is had. Holding and buying each suffice; zero addresses switch them off.
    struct Gate {
        /// Holders of at least `minBalance` of this token have access.
        IERC20 gateToken;
        uint256 minBalance;
        Offer offer;
    }

    /// @notice What the vault knows of an account and a model.
    struct Grant {
        /// UNIX seconds until which bought or given access lasts.
        uint64 until;
        bool revoked;
        /// The model's content key, encrypted to the account's encryption key; empty if there is none.
        bytes wrappedKey;
    }

    /// @notice What an account signs to be served: a node refuses a nonce it has seen, and one that has expired.
    struct AccessRequest {
        string modelId;
        address account;
        uint256 nonce;
        uint64 expiry;
    }

    bytes32 public constant ACCESS_REQUEST_TYPEHASH =
        keccak256("AccessRequest(string modelId,address account,uint256 nonce,uint64 expiry)");
    /// @dev A key of 32 bytes wrapped with an ephemeral key, nonce and tag has about 100.
    uint256 public constant WRAPPED_KEY_LENGTH_MAX = 256;

    IModelRegistry public immutable modelRegistry;

    mapping(bytes32 idHash => Gate) private _gates;
    mapping(bytes32 idHash => mapping(address account => Grant)) private _grants;
    /// @notice The X25519 public key that content keys are wrapped to for an account; zero if it has none.
    mapping(address account => bytes32) public encryptionKeyOf;

    event GateSet(string modelId, Gate gate);
    event AccessBought(string modelId, address indexed account, address indexed seller, uint256 price, uint64 until);
    event AccessGiven(string modelId, address indexed account, uint64 until);
    event AccessRevoked(string modelId, address indexed account);
    event KeyWrapped(string modelId, address indexed account, bytes wrappedKey);
    event EncryptionKeySet(address indexed account, bytes32 encryptionKey);

    error NotTheProposer(address caller, address proposer);
    error NotForSale(string modelId);
    error OfferChanged(Offer expected, Offer actual);
    error AlreadyForEver(string modelId, address account);
    error Revoked(string modelId, address account);
    error PaymentNotWhole(uint256 price, uint256 received);
    error WrappedKeyLength(uint256 length);
    error EncryptionKeyZero();
    error NoAccess(string modelId, address account);

    modifier onlyProposer(string calldata modelId) {
        (address proposer,) = modelRegistry.accessOf(modelId);
        if (msg.sender != proposer) revert NotTheProposer(msg.sender, proposer);
        _;
    }

    constructor(IModelRegistry modelRegistry_) EIP712("Quern", "1") {
        modelRegistry = modelRegistry_;
    }

    /// @notice Set how access to a model is had from now on. What was bought before stays bought.
    function setGate(string calldata modelId, Gate calldata gate) external onlyProposer(modelId) {
        _gates[_id(modelId)] = gate;
        emit GateSet(modelId, gate);
    }

    /// @notice Buy access for the caller, or prolong it; the price goes whole to the proposer.
    /// @param expected The offer the caller takes: the one that stands, or nothing is bought.
    function purchase(string calldata modelId, Offer calldata expected) external {
        _purchase(modelId, expected);
    }

    /// @notice As `purchase`, with the allowance given by signature (ERC-2612) over the price.
    function purchaseWithPermit(
        string calldata modelId,
        Offer calldata expected,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        IERC20Permit payToken = IERC20Permit(address(expected.payToken));
        // Somebody may have used the permit already: then the allowance stands, and that is all that matters.
        try payToken.permit(msg.sender, address(this), expected.price, deadline, v, r, s) {} catch {}
        _purchase(modelId, expected);
    }

    /// @notice Let an account in until `until` (UNIX seconds), or take back its revocation.
    function giveAccess(string calldata modelId, address account, uint64 until) external onlyProposer(modelId) {
        Grant storage grant = _grants[_id(modelId)][account];
        grant.revoked = false;
        if (until > grant.until) grant.until = until;
        emit AccessGiven(modelId, account, grant.until);
    }

    /// @notice Shut an account out and forget its wrapped key. Who has the content key already can go on reading what it
    /// has; a new version of the model needs a new key.
    function revokeAccess(string calldata modelId, address account) external onlyProposer(modelId) {
        Grant storage grant = _grants[_id(modelId)][account];
        grant.revoked = true;
        delete grant.wrappedKey;
        emit AccessRevoked(modelId, account);
    }

    /// @notice Deposit the model's content key, wrapped to the encryption key of an account that has access.
    function setWrappedKey(string calldata modelId, address account, bytes calldata wrappedKey)
        external
        onlyProposer(modelId)
    {
        if (wrappedKey.length == 0 || wrappedKey.length > WRAPPED_KEY_LENGTH_MAX) {
            revert WrappedKeyLength(wrappedKey.length);
        }
        if (!hasAccess(modelId, account)) revert NoAccess(modelId, account);
        _grants[_id(modelId)][account].wrappedKey = wrappedKey;
        emit KeyWrapped(modelId, account, wrappedKey);
    }

    /// @notice Publish the X25519 key that content keys are wrapped to for the caller.
    function setEncryptionKey(bytes32 encryptionKey) external {
        if (encryptionKey == 0) revert EncryptionKeyZero();
        encryptionKeyOf[msg.sender] = encryptionKey;
        emit EncryptionKeySet(msg.sender, encryptionKey);
    }

    /// @notice The gate of a model; all zero if none was set.
    function gateOf(string calldata modelId) external view returns (Gate memory) {
        return _gates[_id(modelId)];
    }

    /// @notice What the vault holds of an account and a model.
    function grantOf(string calldata modelId, address account) external view returns (Grant memory) {
        return _grants[_id(modelId)][account];
    }

    /// @notice Whether a signed request may be served now: signature (of the account or of its contract, ERC-1271),
    /// expiry, and access. Whether its nonce is new is for the node that serves it to know.
    function isAuthorised(AccessRequest calldata request, bytes calldata signature) external view returns (bool) {
        if (block.timestamp > request.expiry || !hasAccess(request.modelId, request.account)) return false;
        return SignatureChecker.isValidSignatureNow(request.account, hashAccessRequest(request), signature);
    }

    /// @notice EIP-712 digest of an access request.
    function hashAccessRequest(AccessRequest calldata request) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    ACCESS_REQUEST_TYPEHASH,
                    keccak256(bytes(request.modelId)),
                    request.account,
                    request.nonce,
                    request.expiry
                )
            )
        );
    }

    /// @notice Whether `account` may use a model: anyone may if it is not gated, its proposer always.
    function hasAccess(string calldata modelId, address account) public view returns (bool) {
        (address proposer, bool gated) = modelRegistry.accessOf(modelId);
        if (!gated || account == proposer) return true;
        Grant storage grant = _grants[_id(modelId)][account];
        if (grant.revoked) return false;
        if (block.timestamp < grant.until) return true;
        Gate storage gate = _gates[_id(modelId)];
        return address(gate.gateToken) != address(0) && gate.gateToken.balanceOf(account) >= gate.minBalance;
    }

    function _purchase(string calldata modelId, Offer calldata expected) private {
        Offer memory offer = _gates[_id(modelId)].offer;
        if (address(offer.payToken) == address(0)) revert NotForSale(modelId);
        if (keccak256(abi.encode(offer)) != keccak256(abi.encode(expected))) revert OfferChanged(expected, offer);
        Grant storage grant = _grants[_id(modelId)][msg.sender];
        if (grant.revoked) revert Revoked(modelId, msg.sender);
        if (grant.until == type(uint64).max) revert AlreadyForEver(modelId, msg.sender);
        grant.until = _prolonged(grant.until, offer.accessSeconds);
        (address proposer,) = modelRegistry.accessOf(modelId);
        emit AccessBought(modelId, msg.sender, proposer, offer.price, grant.until);
        uint256 before = offer.payToken.balanceOf(proposer);
        offer.payToken.safeTransferFrom(msg.sender, proposer, offer.price);
        uint256 received = offer.payToken.balanceOf(proposer) - before;
        if (received < offer.price) revert PaymentNotWhole(offer.price, received);
    }

    /// @dev Time that is left counts on.
    function _prolonged(uint64 until, uint64 accessSeconds) private view returns (uint64) {
        if (accessSeconds == 0) return type(uint64).max;
        uint64 start = until > block.timestamp ? until : uint64(block.timestamp);
        return start + accessSeconds;
    }

    function _id(string calldata modelId) private pure returns (bytes32) {
        return keccak256(bytes(modelId));
    }
}
