// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {QuernToken} from "../src/QuernToken.sol";
import {SortedMerkle} from "../src/SortedMerkle.sol";
import {Base} from "./Base.sol";

contract RewardsTest is Base {
    address private payee = address(0xB0B);
    bytes32[] private none;

    function _leaf(address account, uint256 cumulative) private pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
    }

    function _post(RewardDistributor target, uint64 epoch, bytes32 root, uint256 total) private {
        vm.prank(target.epochManager());
        target.postEpoch(epoch, root, total, uint64(block.number));
    }

    function testClaimsPayWhatIsNewByProofToTheAccountOnly() public {
        _post(distributor, 0, _leaf(user, 40 * TOKEN), 40 * TOKEN);
        distributor.claim(user, 40 * TOKEN, none);
        assertEq(token.balanceOf(user), 40 * TOKEN, "first");
        vm.expectPartialRevert(RewardDistributor.NothingToClaim.selector);
        distributor.claim(user, 40 * TOKEN, none);
        vm.expectPartialRevert(RewardDistributor.InvalidProof.selector);
        distributor.claim(user, 41 * TOKEN, none);
        vm.expectPartialRevert(RewardDistributor.InvalidProof.selector);
        distributor.claim(payee, 40 * TOKEN, none);
        _post(distributor, 1, _leaf(user, 100 * TOKEN), 60 * TOKEN);
        distributor.claim(user, 100 * TOKEN, none);
        assertEq(token.balanceOf(user), 100 * TOKEN, "second");
        assertEq(distributor.claimedTotal(), 100 * TOKEN, "claimed");
        assertEq(distributor.mintedTotal(), 100 * TOKEN, "minted");
    }

    function testAResultIsClaimableFromItsBlockOnAndTheOneBeforeUntilThen() public {
        _post(distributor, 0, _leaf(user, 40 * TOKEN), 40 * TOKEN);
        vm.prank(address(epochs));
        distributor.postEpoch(1, _leaf(user, 100 * TOKEN), 60 * TOKEN, uint64(block.number + 5));
        vm.expectPartialRevert(RewardDistributor.InvalidProof.selector);
        distributor.claim(user, 100 * TOKEN, none);
        distributor.claim(user, 40 * TOKEN, none);
        vm.roll(block.number + 5);
        assertEq(distributor.activeRoot(), _leaf(user, 100 * TOKEN), "active");
        assertEq(distributor.fundedTotal(), 100 * TOKEN, "funded");
        distributor.claim(user, 100 * TOKEN, none);
        assertEq(token.balanceOf(user), 100 * TOKEN, "paid");
    }

    function testAVoidedResultPaysNothing() public {
        _post(distributor, 0, _leaf(user, 40 * TOKEN), 40 * TOKEN);
        vm.prank(address(epochs));
        distributor.postEpoch(1, _leaf(payee, 60 * TOKEN), 60 * TOKEN, uint64(block.number + 5));
        vm.expectPartialRevert(RewardDistributor.NotTheEpochManager.selector);
        distributor.voidEpoch(1);
        vm.prank(address(epochs));
        vm.expectPartialRevert(RewardDistributor.NotPending.selector);
        distributor.voidEpoch(0);
        vm.prank(address(epochs));
        distributor.voidEpoch(1);
        vm.roll(block.number + 5);
        vm.expectPartialRevert(RewardDistributor.InvalidProof.selector);
        distributor.claim(payee, 60 * TOKEN, none);
        distributor.claim(user, 40 * TOKEN, none);
        assertEq(distributor.fundedTotal(), 40 * TOKEN, "only the first");
        vm.prank(address(epochs));
        vm.expectPartialRevert(RewardDistributor.NotPending.selector);
        distributor.voidEpoch(1);
    }

    function testClaimsNeverExceedWhatWasFunded() public {
        _post(distributor, 0, _leaf(user, 50 * TOKEN), 40 * TOKEN); // a root that promises more than the epoch paid
        vm.expectPartialRevert(RewardDistributor.ClaimAboveFunded.selector);
        distributor.claim(user, 50 * TOKEN, none);
    }

    function testOnlyTheEpochManagerPostsAndNeverAboveSubsidyAndPot() public {
        vm.expectPartialRevert(RewardDistributor.NotTheEpochManager.selector);
        distributor.postEpoch(0, 0, 1, 0);
        vm.expectPartialRevert(RewardDistributor.RewardAboveFunds.selector);
        this.post(0, 0, SUBSIDY + 1);
        vm.expectPartialRevert(RewardDistributor.RewardAboveFunds.selector);
        this.post(100, 0, SUBSIDY / 2 + 1);
    }

    function testWorkCoinsOfThePotArePaidBesideTheSubsidyWithoutMintingThem() public {
        token.approve(address(distributor), type(uint256).max);
        vm.expectPartialRevert(RewardDistributor.AmountZero.selector);
        distributor.addWorkCoins(0);
        distributor.addWorkCoins(30 * TOKEN);
        uint256 supply = token.totalSupply();
        _post(distributor, 0, _leaf(user, SUBSIDY + 20 * TOKEN), SUBSIDY + 20 * TOKEN);
        assertEq(distributor.pot(), 10 * TOKEN, "what is left of the pot");
        distributor.claim(user, SUBSIDY + 20 * TOKEN, none);
        assertEq(token.balanceOf(user), SUBSIDY + 20 * TOKEN, "paid");
        assertEq(token.totalSupply(), supply + SUBSIDY, "only the subsidy is new");
        assertEq(token.balanceOf(address(distributor)), 10 * TOKEN, "the rest of the pot");
        vm.expectPartialRevert(RewardDistributor.RewardAboveFunds.selector);
        this.post(1, 0, SUBSIDY + 11 * TOKEN);
        _post(distributor, 1, _leaf(user, 2 * SUBSIDY + 30 * TOKEN), SUBSIDY + 10 * TOKEN);
        distributor.claim(user, 2 * SUBSIDY + 30 * TOKEN, none);
        assertEq(token.balanceOf(address(distributor)), 0, "all paid out");
    }

    function testFuzzTheSubsidyHalvesAndEndsAtNothing(uint64 epoch) public view {
        uint256 expected = epoch / 100 > 255 ? 0 : SUBSIDY >> (epoch / 100);
        assertEq(distributor.subsidy(epoch), expected, "subsidy");
    }

    function testADistributorThatCannotKeepItsPromiseIsNotMade() public {
        vm.expectPartialRevert(RewardDistributor.SubsidiesExceedCap.selector);
        new RewardDistributor(token, SUPPLY, 100, 0);
        QuernToken vast = new QuernToken(type(uint256).max, 1, address(this));
        vm.expectPartialRevert(RewardDistributor.CapTooLarge.selector);
        new RewardDistributor(vast, 1, 1, 0);
        vm.expectPartialRevert(RewardDistributor.HalvingEpochsZero.selector);
        new RewardDistributor(token, 1, 0, 0);
        vm.expectPartialRevert(RewardDistributor.EpochManagerAlreadySet.selector);
        distributor.setEpochManager(address(epochs));
        RewardDistributor fresh = new RewardDistributor(token, 1, 1, 0);
        vm.expectPartialRevert(RewardDistributor.EpochManagerHasNoCode.selector);
        fresh.setEpochManager(user);
        vm.prank(user);
        vm.expectRevert();
        fresh.setEpochManager(address(epochs));
    }

    function _vesting() private returns (RewardDistributor target) {
        QuernToken fresh = new QuernToken(10 * SUPPLY, SUPPLY, address(this));
        target = new RewardDistributor(fresh, SUBSIDY, 100, 1000);
        fresh.setMinter(address(target));
        target.setEpochManager(address(epochs));
    }

    function verify(bytes32[] calldata proof, bytes32 root, bytes32 leaf)
        external
        pure
        returns (bool ours, bool theirs)
    {
        return (SortedMerkle.verify(proof, root, leaf), MerkleProof.verifyCalldata(proof, root, leaf));
    }

    function testFuzzProofsAreThoseOfOpenZeppelin(bytes32[] calldata proof, bytes32 leaf, uint256 bit) public view {
        bytes32 root = MerkleProof.processProof(proof, leaf);
        (bool ours, bool theirs) = this.verify(proof, root, leaf);
        assertTrue(ours && theirs, "the root it leads to");
        (ours, theirs) = this.verify(proof, root ^ bytes32(1 << (bit % 256)), leaf);
        assertTrue(!ours && !theirs, "no other");
        (ours, theirs) = this.verify(proof, root, leaf ^ bytes32(1 << (bit % 256)));
        assertTrue(!ours && !theirs, "from no other leaf");
    }

    function testAClaimVestsOverItsTime() public {
        RewardDistributor target = _vesting();
        QuernToken fresh = target.token();
        _post(target, 0, _leaf(user, SUBSIDY), SUBSIDY);
        target.claim(user, SUBSIDY, none);
        assertEq(fresh.balanceOf(user), 0, "nothing at once");
        vm.expectPartialRevert(RewardDistributor.NothingToRelease.selector);
        target.release(user);
        vm.warp(block.timestamp + 250);
        assertEq(target.releasable(user), SUBSIDY / 4, "a quarter");
        target.release(user);
        assertEq(fresh.balanceOf(user), SUBSIDY / 4, "released");
        vm.warp(block.timestamp + 750);
        target.release(user);
        assertEq(fresh.balanceOf(user), SUBSIDY, "all of it");
        vm.expectPartialRevert(RewardDistributor.NothingToRelease.selector);
        target.release(user);
    }

    function testASecondClaimNeitherRestartsNorShortensTheFirst() public {
        RewardDistributor target = _vesting();
        _post(target, 0, _leaf(user, SUBSIDY), SUBSIDY);
        target.claim(user, SUBSIDY, none);
        vm.warp(block.timestamp + 500);
        _post(target, 1, _leaf(user, 2 * SUBSIDY), SUBSIDY);
        target.claim(user, 2 * SUBSIDY, none);
        assertEq(target.token().balanceOf(user), SUBSIDY / 2, "what had vested");
        (uint128 locked,, uint64 until) = target.vestingOf(user);
        assertEq(locked, 3 * SUBSIDY / 2, "locked");
        // Half a subsidy with 500 s left, one with 1000 s: 833.3 s on average.
        assertEq(until, block.timestamp + 834, "the mean, rounded up");
    }

    function testFuzzVestingPaysEverythingAndNeverMore(uint16[8] calldata steps) public {
        RewardDistributor target = _vesting();
        uint256 cumulative;
        for (uint64 i; i < 8; ++i) {
            uint256 earned = (uint256(steps[i]) + 1) * 1e15;
            cumulative += earned;
            _post(target, i, _leaf(user, cumulative), earned);
            target.claim(user, cumulative, none);
            vm.warp(block.timestamp + steps[i] % 700);
            assertTrue(target.token().balanceOf(user) <= cumulative, "never more");
        }
        vm.warp(block.timestamp + 1000);
        if (target.releasable(user) != 0) target.release(user);
        assertEq(target.token().balanceOf(user), cumulative, "everything");
    }

    /// @dev An external entrance, so that a revert of the posting itself is what is expected.
    function post(uint64 epoch, bytes32 root, uint256 total) external {
        _post(distributor, epoch, root, total);
    }
}
