// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessVault} from "../src/AccessVault.sol";
import {AddressBook} from "../src/AddressBook.sol";
import {EcdsaQuorumVerifier} from "../src/EcdsaQuorumVerifier.sol";
import {EpochManager} from "../src/EpochManager.sol";
import {InferenceCoordinator} from "../src/InferenceCoordinator.sol";
import {ModelRegistry} from "../src/ModelRegistry.sol";
import {ParticipantRegistry} from "../src/ParticipantRegistry.sol";
import {PaymentChannels} from "../src/PaymentChannels.sol";
import {QuernToken} from "../src/QuernToken.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {Slashing} from "../src/Slashing.sol";

/// @dev Foundry's cheat codes, as far as they are used here.
interface Vm {
    function prank(address sender) external;
    function roll(uint256 blockNumber) external;
    function warp(uint256 timestamp) external;
    function chainId(uint256 id) external;
    function expectPartialRevert(bytes4 selector) external;
    function expectRevert(bytes calldata data) external;
    function expectRevert() external;
    function addr(uint256 key) external pure returns (address);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function assume(bool condition) external pure;
    function readFile(string calldata path) external view returns (string memory);
    function parseJsonUint(string calldata json, string calldata key) external pure returns (uint256);
    function parseJsonUintArray(string calldata json, string calldata key) external pure returns (uint256[] memory);
    function parseJsonBytes(string calldata json, string calldata key) external pure returns (bytes memory);
    function parseJsonBytes32(string calldata json, string calldata key) external pure returns (bytes32);
    function parseJsonBytes32Array(string calldata json, string calldata key) external pure returns (bytes32[] memory);
    function parseJsonString(string calldata json, string calldata key) external pure returns (string memory);
    function parseJsonAddress(string calldata json, string calldata key) external pure returns (address);
}

/// @dev A deployed network with three members of equal weight, and assertions.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    uint256 internal constant TOKEN = 1e18;
    uint256 internal constant SUPPLY = 1_000_000 * TOKEN;
    uint256 internal constant SUBSIDY = 100 * TOKEN;
    uint256 internal constant UNIT_PRICE = 1e12;
    uint64 internal constant UNLOCK_SECONDS = 600;
    uint64 internal constant UNBONDING_SECONDS = 3600;
    uint64 internal constant ANSWER_BLOCKS = 40;
    uint64 internal constant DISPUTE_BLOCKS = 10;
    uint64 internal constant VERDICT_BLOCKS = 20;
    uint256 internal constant CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    bytes internal constant CID = hex"01551220aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    address internal user = address(0xA11CE);
    uint256[3] internal keys;
    address[3] internal members;

    QuernToken internal token;
    ModelRegistry internal models;
    ParticipantRegistry internal participants;
    RewardDistributor internal distributor;
    EcdsaQuorumVerifier internal verifier;
    EpochManager internal epochs;
    PaymentChannels internal channels;
    InferenceCoordinator internal coordinator;
    Slashing internal slashing;
    AccessVault internal vault;
    AddressBook internal book;
    uint256 internal genesisBlock;

    function setUp() public virtual {
        vm.roll(1000);
        vm.warp(1_800_000_000);
        _makeMembers();
        token = new QuernToken(10 * SUPPLY, SUPPLY, address(this));
        models = new ModelRegistry(address(this));
        participants = new ParticipantRegistry(models, token, UNBONDING_SECONDS, 0, address(this));
        distributor = new RewardDistributor(token, SUBSIDY, 100, 0);
        verifier = new EcdsaQuorumVerifier();
        genesisBlock = block.number;
        epochs = new EpochManager(_parameters(), _packed(1, 1, 1), participants, distributor, verifier, address(this));
        channels = new PaymentChannels(token, UNLOCK_SECONDS);
        coordinator = new InferenceCoordinator(
            token, models, epochs, InferenceCoordinator.Windows(ANSWER_BLOCKS, DISPUTE_BLOCKS, VERDICT_BLOCKS)
        );
        slashing = new Slashing(epochs, participants, Slashing.Penalty(500, 10), Slashing.Penalty(10, 1), address(this));
        vault = new AccessVault(models);
        token.setMinter(address(distributor));
        distributor.setEpochManager(address(epochs));
        participants.setSlasher(address(slashing));
        book = new AddressBook(_addresses());
    }

    function _addresses() internal view returns (AddressBook.Addresses memory) {
        return AddressBook.Addresses({
            token: address(token),
            modelRegistry: address(models),
            participantRegistry: address(participants),
            epochManager: address(epochs),
            rewardDistributor: address(distributor),
            paymentChannels: address(channels),
            inferenceCoordinator: address(coordinator),
            slashing: address(slashing),
            accessVault: address(vault)
        });
    }

    /// @dev Go to a block of an epoch.
    function _at(uint256 epoch, uint256 offset) internal {
        vm.roll(genesisBlock + epoch * 60 + offset);
    }

    /// @dev The three members' bits in one word.
    function _bitmap(uint256 bits) internal pure returns (uint256[] memory bitmap) {
        bitmap = new uint256[](1);
        bitmap[0] = bits;
    }

    /// @dev Signatures of the members whose bits are set.
    function _signatures(bytes32 digest, uint256 bits) internal view returns (bytes memory signatures) {
        for (uint256 i; i < 3; ++i) {
            if (bits >> i & 1 == 1) signatures = bytes.concat(signatures, _sign(keys[i], digest));
        }
    }

    function _parameters() internal pure returns (EpochManager.Parameters memory) {
        return EpochManager.Parameters({
            genesisBlock: 0,
            epochBlocks: 60,
            generateOffset: 20,
            exchangeOffset: 30,
            validateOffset: 34,
            voteExchangeOffset: 42,
            formOffset: 46,
            loadOffset: 54,
            pocSampleSize: 8,
            pocRejectMismatches: 3,
            unitPrice: UNIT_PRICE,
            initialSubsidy: SUBSIDY,
            halvingEpochs: 100
        });
    }

    /// @dev Three keys whose accounts ascend, as sets must.
    function _makeMembers() private {
        keys = [uint256(1), 2, 3];
        for (uint256 i; i < 3; ++i) {
            for (uint256 j; j + 1 < 3; ++j) {
                if (vm.addr(keys[j]) > vm.addr(keys[j + 1])) (keys[j], keys[j + 1]) = (keys[j + 1], keys[j]);
            }
        }
        members = [vm.addr(keys[0]), vm.addr(keys[1]), vm.addr(keys[2])];
    }

    function _packed(uint64 a, uint64 b, uint64 c) internal view returns (bytes memory) {
        return abi.encodePacked(members[0], a, members[1], b, members[2], c);
    }

    function _sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev The same in the short form of ERC-2098.
    function _signShort(uint256 key, bytes32 digest) internal pure returns (bytes32 r, bytes32 vs) {
        uint8 v;
        (v, r, vs) = vm.sign(key, digest);
        vs = bytes32(uint256(vs) | uint256(v - 27) << 255);
    }

    function _registerModel() internal {
        models.registerModelWithSpec("tiny", "bafycid", "Tiny", "", _spec());
    }

    function _spec() internal pure returns (ModelRegistry.ModelSpec memory spec) {
        spec.throughputPerNonce = 1000;
        spec.unitsOfComputePerToken = 2;
        spec.contextLength = 512;
        spec.pocDistanceMax = 1_000_000;
    }

    function _registerNode(address participant) internal {
        vm.prank(participant);
        participants.register(abi.encodePacked("peer-of-", participant), "");
        vm.prank(participant);
        participants.submitHardwareDiff(_node("node-1", "tiny"), new string[](0));
    }

    function _node(string memory nodeId, string memory modelId)
        internal
        pure
        returns (ParticipantRegistry.MLNode[] memory added)
    {
        added = new ParticipantRegistry.MLNode[](1);
        added[0] = ParticipantRegistry.MLNode(nodeId, _list(modelId), "cpu");
    }

    function _list(string memory only) internal pure returns (string[] memory list) {
        list = new string[](1);
        list[0] = only;
    }

    function assertTrue(bool condition, string memory what) internal pure {
        require(condition, what);
    }

    function assertEq(uint256 actual, uint256 expected, string memory what) internal pure {
        require(actual == expected, string.concat(what, ": ", _text(actual), " is not ", _text(expected)));
    }

    function assertEq(address actual, address expected, string memory what) internal pure {
        require(actual == expected, what);
    }

    function assertEq(string memory actual, string memory expected, string memory what) internal pure {
        require(keccak256(bytes(actual)) == keccak256(bytes(expected)), string.concat(what, ": ", actual));
    }

    function assertEq(bytes32 actual, bytes32 expected, string memory what) internal pure {
        require(actual == expected, what);
    }

    function _text(uint256 number) private pure returns (string memory) {
        if (number == 0) return "0";
        bytes memory digits;
        for (; number > 0; number /= 10) {
            digits = abi.encodePacked(bytes1(uint8(48 + number % 10)), digits);
        }
        return string(digits);
    }
}
