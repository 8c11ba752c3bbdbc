// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessVault} from "../src/AccessVault.sol";
import {EpochManager} from "../src/EpochManager.sol";
import {IEpochManager} from "../src/interfaces/IEpochManager.sol";
import {InferenceCoordinator} from "../src/InferenceCoordinator.sol";
import {ParticipantRegistry} from "../src/ParticipantRegistry.sol";
import {PaymentChannels} from "../src/PaymentChannels.sol";
import {QuernToken} from "../src/QuernToken.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {Slashing} from "../src/Slashing.sol";
import {Base, Vm} from "./Base.sol";

/// @dev What the handlers share: cheat codes, signing, and the sums that must hold. Each handler does what anybody may
/// do with its contract, in any order, with amounts that make sense.
abstract contract Handler {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    function _sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}

/// @dev Two payers and two payees: four channels.
contract ChannelsHandler is Handler {
    PaymentChannels private immutable channels;
    QuernToken private immutable token;
    uint256[2] private keys = [uint256(4242), 4243];
    address[2] private payees = [address(0xB0B), address(0xB0C)];

    mapping(bytes32 id => uint256) public paid;
    bool public redeemedAboveDeposit;

    constructor(QuernToken token_, PaymentChannels channels_) {
        token = token_;
        channels = channels_;
    }

    function payer(uint256 index) public view returns (address) {
        return vm.addr(keys[index & 1]);
    }

    function payee(uint256 index) public view returns (address) {
        return payees[index & 1];
    }

    function deposit(uint256 from, uint256 to, uint256 amount) external {
        amount = amount % 1e18 + 1;
        if (token.balanceOf(payer(from)) < amount) return;
        vm.prank(payer(from));
        channels.deposit(payee(to), amount);
    }

    function redeem(uint256 from, uint256 to, uint256 cumulative) external {
        PaymentChannels.Channel memory channel = channels.getChannel(payer(from), payee(to));
        cumulative = cumulative % (2 * uint256(channel.deposited) + 2);
        bytes32 id = channels.channelId(payer(from), payee(to));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(keys[from & 1], channels.hashVoucher(id, cumulative, 0));
        PaymentChannels.Redemption[] memory batch = new PaymentChannels.Redemption[](1);
        bytes32 vs = bytes32(uint256(s) | uint256(v - 27) << 255);
        batch[0] = PaymentChannels.Redemption(payer(from), cumulative, 0, r, vs);
        uint256 before = token.balanceOf(payee(to));
        try channels.redeemMany(payee(to), batch) {
            if (cumulative > channel.deposited) redeemedAboveDeposit = true;
            paid[id] += token.balanceOf(payee(to)) - before;
        } catch {}
    }

    function requestWithdraw(uint256 from, uint256 to) external {
        vm.prank(payer(from));
        try channels.requestWithdraw(payee(to)) {} catch {}
    }

    function withdraw(uint256 from, uint256 to, uint16 wait) external {
        vm.warp(block.timestamp + wait);
        vm.prank(payer(from));
        try channels.withdraw(payee(to)) {} catch {}
    }
}

/// @dev Epochs go by; results are posted, voided, claimed, and work coins added.
contract EpochsHandler is Handler {
    EpochManager private immutable epochs;
    RewardDistributor private immutable distributor;
    QuernToken private immutable token;
    address[3] private members;
    uint256[3] private keys;
    uint256 private immutable genesis;
    bytes private set;

    uint256 public subsidies;
    uint256 public added;
    uint256 public paid;
    bool public claimedTwice;
    uint256 private promised;
    mapping(uint64 epoch => uint256) private reward;

    constructor(
        EpochManager epochs_,
        RewardDistributor distributor_,
        address[3] memory members_,
        uint256[3] memory keys_
    ) {
        epochs = epochs_;
        distributor = distributor_;
        token = distributor_.token();
        (members, keys) = (members_, keys_);
        genesis = block.number;
        set = abi.encodePacked(members_[0], uint64(3), members_[1], uint64(4), members_[2], uint64(5));
        vm.prank(members_[0]);
        epochs_.storeGroup(set);
    }

    function pass(uint8 blocks) external {
        vm.roll(block.number + blocks % 15 + 1);
    }

    function addWorkCoins(uint256 amount) external {
        amount = amount % 1e18 + 1;
        if (token.balanceOf(address(this)) < amount) return;
        token.approve(address(distributor), amount);
        distributor.addWorkCoins(amount);
        added += amount;
    }

    function post(uint256 amount, bool greedy) external {
        (uint64 epoch,,,) = epochs.currentStage();
        uint256 form = genesis + uint256(epoch) * 60 + 46;
        if (block.number >= form + 8 || epochs.resultOf(epoch) != 0) return;
        if (block.number < form) vm.roll(form);
        uint256 most = distributor.subsidy(epoch) + distributor.pot();
        amount = greedy ? most + 1 + amount % 1e18 : amount % (most + 1);
        uint256 cumulative = distributor.claimedOf(members[0]) + amount;
        EpochManager.EpochResult memory result =
            EpochManager.EpochResult(epoch, hex"0155", keccak256(set), 12, _leaf(cumulative), amount);
        bytes32 digest = epochs.hashEpochResult(result);
        uint256[] memory bitmap = new uint256[](1);
        bitmap[0] = 7;
        bytes memory signatures = bytes.concat(_sign(keys[0], digest), _sign(keys[1], digest), _sign(keys[2], digest));
        try epochs.submitEpochResult(result, bitmap, signatures) {
            reward[epoch] = distributor.subsidy(epoch);
            subsidies += distributor.subsidy(epoch);
            promised = cumulative;
        } catch {}
    }

    function void(uint8 who) external {
        (uint64 epoch,,,) = epochs.currentStage();
        bytes32 digest = epochs.resultOf(epoch);
        if (digest == 0) return;
        uint256[] memory bitmap = new uint256[](1);
        bitmap[0] = uint256(1) << (who % 3);
        bytes memory signature = _sign(keys[who % 3], epochs.hashObjection(epoch, digest));
        try epochs.voidEpochResult(epoch, digest, bitmap, signature) {
            subsidies -= reward[epoch];
        } catch {}
    }

    function claim(bool twice) external {
        uint256 before = token.balanceOf(members[0]);
        try distributor.claim(members[0], promised, new bytes32[](0)) {
            paid += token.balanceOf(members[0]) - before;
            if (twice) {
                try distributor.claim(members[0], promised, new bytes32[](0)) {
                    claimedTwice = true;
                } catch {}
            }
        } catch {}
    }

    function _leaf(uint256 cumulative) private view returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(members[0], cumulative))));
    }
}

/// @dev Prompts are asked, answered, disputed, judged, settled and reclaimed, or left lying.
contract PromptsHandler is Handler {
    InferenceCoordinator private immutable coordinator;
    QuernToken private immutable token;
    address[3] private members;
    uint256[3] private keys;
    address public immutable asker = vm.addr(4244);

    constructor(
        QuernToken token_,
        InferenceCoordinator coordinator_,
        address[3] memory members_,
        uint256[3] memory keys_
    ) {
        token = token_;
        coordinator = coordinator_;
        (members, keys) = (members_, keys_);
    }

    function ask(uint32 maxTokens) external {
        if (token.balanceOf(asker) < 1e18) return;
        vm.prank(asker);
        coordinator.submitPrompt("bafyprompt", "tiny", maxTokens % 1000 + 1, type(uint256).max);
    }

    function answer(uint256 promptId, uint32 output) external {
        promptId = _known(promptId);
        if (promptId == type(uint256).max) return;
        vm.prank(coordinator.getPrompt(promptId).executor);
        try coordinator.submitResult(promptId, "bafyanswer", 1, output % 2000 + 1) {} catch {}
    }

    function dispute(uint256 promptId) external {
        promptId = _known(promptId);
        vm.prank(asker);
        try coordinator.dispute(promptId, "bafyreason") {} catch {}
    }

    function resolve(uint256 promptId, bool forUser) external {
        promptId = _known(promptId);
        bytes32 digest = coordinator.hashDisputeVerdict(promptId, forUser);
        uint256[] memory bitmap = new uint256[](1);
        bitmap[0] = 7;
        bytes memory signatures = bytes.concat(_sign(keys[0], digest), _sign(keys[1], digest), _sign(keys[2], digest));
        try coordinator.resolveDispute(promptId, forUser, bitmap, signatures) {} catch {}
    }

    function settle(uint256 promptId) external {
        try coordinator.settle(_known(promptId)) {} catch {}
    }

    function reclaim(uint256 promptId) external {
        try coordinator.reclaim(_known(promptId)) {} catch {}
    }

    function pass(uint8 blocks) external {
        vm.roll(block.number + blocks % 30 + 1);
    }

    /// @dev Whatever state a prompt is in, time and a call by anybody end it.
    function endAll() external {
        vm.roll(block.number + 1000);
        for (uint256 i; i < coordinator.promptCount(); ++i) {
            InferenceCoordinator.PromptStatus status = coordinator.getPrompt(i).status;
            if (status == InferenceCoordinator.PromptStatus.OPEN) coordinator.reclaim(i);
            if (
                status == InferenceCoordinator.PromptStatus.ANSWERED
                    || status == InferenceCoordinator.PromptStatus.DISPUTED
            ) coordinator.settle(i);
        }
    }

    function _known(uint256 promptId) private view returns (uint256) {
        uint256 count = coordinator.promptCount();
        return count == 0 ? type(uint256).max : promptId % count;
    }
}

/// @dev Two participants post, unbond and withdraw collateral; a quorum slashes them.
contract CollateralHandler is Handler {
    ParticipantRegistry private immutable participants;
    Slashing private immutable slashing;
    IEpochManager private immutable epochs;
    QuernToken private immutable token;
    uint256[3] private keys;
    address[2] public accounts = [address(0xCA0), address(0xCA1)];
    uint256 public burned;

    constructor(QuernToken token_, ParticipantRegistry participants_, Slashing slashing_, uint256[3] memory keys_) {
        token = token_;
        participants = participants_;
        slashing = slashing_;
        epochs = slashing_.epochManager();
        keys = keys_;
        for (uint256 i; i < 2; ++i) {
            vm.prank(accounts[i]);
            participants_.register("peer", "");
            vm.prank(accounts[i]);
            token_.approve(address(participants_), type(uint256).max);
        }
    }

    function deposit(uint256 who, uint256 amount) external {
        address account = accounts[who & 1];
        vm.prank(account);
        try participants.depositCollateral(amount % 1e18) {} catch {}
    }

    function unbond(uint256 who, uint256 amount) external {
        address account = accounts[who & 1];
        vm.prank(account);
        try participants.requestWithdrawCollateral(amount % 1e18) {} catch {}
    }

    function withdraw(uint256 who, uint16 wait) external {
        vm.warp(block.timestamp + wait);
        vm.prank(accounts[who & 1]);
        try participants.withdrawCollateral() {} catch {}
    }

    function punish(uint256 who, bool fraud) external {
        (uint64 epoch,,,) = epochs.currentStage();
        Slashing.Offence offence = fraud ? Slashing.Offence.FRAUD : Slashing.Offence.DOWNTIME;
        Slashing.Verdict memory verdict = Slashing.Verdict(epoch, accounts[who & 1], offence, hex"0155");
        bytes32 digest = slashing.hashVerdict(verdict);
        uint256[] memory bitmap = new uint256[](1);
        bitmap[0] = 7;
        bytes memory signatures = bytes.concat(_sign(keys[0], digest), _sign(keys[1], digest), _sign(keys[2], digest));
        uint256 supply = token.totalSupply();
        try slashing.punish(verdict, bitmap, signatures) {
            burned += supply - token.totalSupply();
        } catch {}
    }
}

/// @dev Purchases, revocations and changed gates; the vault never holds anything.
contract VaultHandler is Handler {
    AccessVault private immutable vault;
    QuernToken private immutable token;
    address private immutable proposer;
    address public immutable buyer = address(0xB1);
    uint256 public spent;

    constructor(QuernToken token_, AccessVault vault_, address proposer_) {
        token = token_;
        vault = vault_;
        proposer = proposer_;
    }

    function setGate(uint256 price, uint32 accessSeconds) external {
        vm.prank(proposer);
        vault.setGate("gated", AccessVault.Gate(token, 1e24, AccessVault.Offer(token, price % 1e18, accessSeconds)));
    }

    function purchase(uint16 wait) external {
        vm.warp(block.timestamp + wait);
        AccessVault.Offer memory offer = vault.gateOf("gated").offer;
        vm.prank(buyer);
        try vault.purchase("gated", offer) {
            spent += offer.price;
        } catch {}
    }

    function revoke(bool back) external {
        vm.prank(proposer);
        if (back) vault.giveAccess("gated", buyer, 0);
        else vault.revokeAccess("gated", buyer);
    }
}

contract InvariantsTest is Base {
    ChannelsHandler private channelsHandler;
    EpochsHandler private epochsHandler;
    PromptsHandler private promptsHandler;
    CollateralHandler private collateralHandler;
    VaultHandler private vaultHandler;
    address private proposer = address(0x0707);
    uint256 private constant FUNDS = 1000 * TOKEN;

    function setUp() public override {
        super.setUp();
        _registerModel();
        models.registerModel("gated", "bafycid", "Gated", "");
        channelsHandler = new ChannelsHandler(token, channels);
        for (uint256 i; i < 2; ++i) {
            _fund(channelsHandler.payer(i), address(channels));
        }
        epochsHandler = new EpochsHandler(epochs, distributor, members, keys);
        token.transfer(address(epochsHandler), FUNDS);
        promptsHandler = new PromptsHandler(token, coordinator, members, keys);
        _fund(promptsHandler.asker(), address(coordinator));
        collateralHandler = new CollateralHandler(token, participants, slashing, keys);
        for (uint256 i; i < 2; ++i) {
            token.transfer(collateralHandler.accounts(i), FUNDS);
        }
        vaultHandler = new VaultHandler(token, vault, address(this));
        _fund(vaultHandler.buyer(), address(vault));
    }

    function _fund(address account, address spender) private {
        token.transfer(account, FUNDS);
        vm.prank(account);
        token.approve(spender, type(uint256).max);
    }

    /// @dev Read by Foundry: only the handlers are called.
    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](5);
        targets[0] = address(channelsHandler);
        targets[1] = address(epochsHandler);
        targets[2] = address(promptsHandler);
        targets[3] = address(collateralHandler);
        targets[4] = address(vaultHandler);
    }

    function invariantChannelsHoldExactlyWhatIsDepositedAndNotRedeemed() external view {
        uint256 expected;
        for (uint256 i; i < 4; ++i) {
            address from = channelsHandler.payer(i & 1);
            address to = channelsHandler.payee(i >> 1);
            PaymentChannels.Channel memory channel = channels.getChannel(from, to);
            assertTrue(channel.redeemed <= channel.deposited, "never above the deposit");
            assertEq(channelsHandler.paid(channels.channelId(from, to)), channel.redeemed, "paid what is redeemed");
            expected += channel.deposited - channel.redeemed;
        }
        assertEq(token.balanceOf(address(channels)), expected, "channels");
        assertTrue(!channelsHandler.redeemedAboveDeposit(), "no redeem above the deposit");
    }

    function invariantTheCoordinatorHoldsExactlyTheOpenEscrowsAndBonds() external view {
        uint256 expected;
        for (uint256 i; i < coordinator.promptCount(); ++i) {
            InferenceCoordinator.Prompt memory prompt = coordinator.getPrompt(i);
            if (prompt.status == InferenceCoordinator.PromptStatus.DISPUTED) expected += prompt.price;
            if (uint8(prompt.status) < uint8(InferenceCoordinator.PromptStatus.SETTLED)) expected += prompt.maxPrice;
        }
        assertEq(token.balanceOf(address(coordinator)), expected, "escrows");
    }

    function invariantEveryEscrowEnds() external {
        promptsHandler.endAll();
        assertEq(token.balanceOf(address(coordinator)), 0, "nothing is left in escrow");
    }

    function invariantRewardsNeverExceedSubsidiesAndPotAndAreNotClaimedTwice() external view {
        assertTrue(distributor.claimedTotal() <= distributor.fundedTotal(), "claimed");
        assertTrue(distributor.mintedTotal() <= epochsHandler.subsidies(), "minted");
        assertTrue(distributor.fundedTotal() <= epochsHandler.subsidies() + epochsHandler.added(), "funded");
        assertTrue(!epochsHandler.claimedTwice(), "claimed twice");
        assertEq(epochsHandler.paid(), distributor.claimedTotal(), "paid what is claimed");
        uint256 inside = distributor.mintedTotal() + epochsHandler.added() - distributor.claimedTotal();
        assertEq(token.balanceOf(address(distributor)), inside, "distributor");
    }

    function invariantTheSupplyIsWhatWasMintedLessWhatWasBurnedAndBelowTheCap() external view {
        uint256 expected = SUPPLY + distributor.mintedTotal() - collateralHandler.burned();
        assertEq(token.totalSupply(), expected, "supply");
        assertTrue(token.totalSupply() <= token.cap(), "cap");
    }

    function invariantTheRegistryHoldsExactlyTheCollateral() external view {
        uint256 expected;
        for (uint256 i; i < 2; ++i) {
            ParticipantRegistry.Collateral memory c = participants.collateralOf(collateralHandler.accounts(i));
            expected += uint256(c.deposited) + c.unbonding;
        }
        assertEq(token.balanceOf(address(participants)), expected, "collateral");
    }

    function invariantPurchasesGoWholeToTheProposer() external view {
        assertEq(token.balanceOf(address(vault)), 0, "the vault holds nothing");
        assertEq(token.balanceOf(vaultHandler.buyer()), FUNDS - vaultHandler.spent(), "the buyer paid the price");
    }

    function invariantStagesAreTotalAndMonotone() external view {
        (uint64 epoch, IEpochManager.Stage stage, uint256 first, uint256 next) = epochs.currentStage();
        assertTrue(first <= block.number && block.number < next, "the stage contains the block");
        (uint64 nextEpoch, IEpochManager.Stage nextStage, uint256 nextFirst,) = epochs.stageAt(next);
        assertEq(nextFirst, next, "the next stage follows at once");
        bool follows = nextEpoch == epoch ? uint8(nextStage) == uint8(stage) + 1 : nextEpoch == epoch + 1;
        assertTrue(follows, "in order");
        assertTrue(epochs.totalWeightOf(epoch) > 0, "somebody is always in charge");
    }
}
