// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {AccessVault} from "../src/AccessVault.sol";
import {ModelRegistry} from "../src/ModelRegistry.sol";
import {Base} from "./Base.sol";

/// @dev A stablecoin with six decimals; with a fee it keeps one per cent of every transfer.
contract Stablecoin is ERC20 {
    bool private immutable _takesFee;

    constructor(bool takesFee) ERC20("Stable", "STB") {
        _takesFee = takesFee;
        _mint(msg.sender, 1_000_000e6);
    }

    function decimals() public pure override returns (uint8) {
        return 6;
    }

    function _update(address from, address to, uint256 value) internal override {
        uint256 fee = _takesFee && from != address(0) && to != address(0) ? value / 100 : 0;
        if (fee != 0) super._update(from, address(0), fee);
        super._update(from, to, value - fee);
    }
}

contract VaultTest is Base {
    uint256 private constant BUYER_KEY = 55;
    uint256 private constant PRICE = 25e6;
    address private proposer = address(0x0707);
    address private buyer = vm.addr(BUYER_KEY);
    Stablecoin private coin;

    function setUp() public override {
        super.setUp();
        ModelRegistry.ModelSpec memory spec = _spec();
        spec.gated = true;
        spec.proposer = proposer;
        models.registerModelWithSpec("gated", "bafycid", "Gated", "", spec);
        _registerModel();
        coin = new Stablecoin(false);
        coin.transfer(buyer, 1000e6);
        vm.prank(buyer);
        coin.approve(address(vault), type(uint256).max);
        _setGate(AccessVault.Gate(token, 10 * TOKEN, AccessVault.Offer(coin, PRICE, 1 days)));
    }

    function _setGate(AccessVault.Gate memory gate) private {
        vm.prank(proposer);
        vault.setGate("gated", gate);
    }

    function _purchase() private {
        AccessVault.Offer memory offer = vault.gateOf("gated").offer;
        vm.prank(buyer);
        vault.purchase("gated", offer);
    }

    /// @dev An external entrance, so that a revert of the purchase itself is what is expected.
    function purchase(address account, AccessVault.Offer memory offer) external {
        vm.prank(account);
        vault.purchase("gated", offer);
    }

    function testAnyoneUsesAModelThatIsNotGatedAndItsProposerAlways() public view {
        assertTrue(vault.hasAccess("tiny", user), "not gated");
        assertTrue(vault.hasAccess("gated", proposer), "proposer");
        assertTrue(!vault.hasAccess("gated", buyer), "gated");
    }

    function testHoldersOfTheTokenHaveAccessWhileTheyHoldIt() public {
        token.transfer(buyer, 10 * TOKEN);
        assertTrue(vault.hasAccess("gated", buyer), "holds");
        vm.prank(buyer);
        token.transfer(user, 1);
        assertTrue(!vault.hasAccess("gated", buyer), "holds too little");
    }

    function testAPurchaseGoesWholeToTheProposerAndLastsItsTime() public {
        _purchase();
        assertEq(coin.balanceOf(proposer), PRICE, "whole");
        assertEq(coin.balanceOf(address(vault)), 0, "nothing stays");
        assertTrue(vault.hasAccess("gated", buyer), "access");
        _purchase();
        assertEq(vault.grantOf("gated", buyer).until, block.timestamp + 2 days, "time that is left counts on");
        vm.warp(block.timestamp + 2 days);
        assertTrue(!vault.hasAccess("gated", buyer), "over");
    }

    function testAPurchaseForEverIsMadeOnce() public {
        _setGate(AccessVault.Gate(IERC20(address(0)), 0, AccessVault.Offer(coin, PRICE, 0)));
        _purchase();
        vm.warp(block.timestamp + 36_500 days);
        assertTrue(vault.hasAccess("gated", buyer), "for ever");
        vm.expectPartialRevert(AccessVault.AlreadyForEver.selector);
        this.purchase(buyer, AccessVault.Offer(coin, PRICE, 0));
    }

    function testAChangedGateDoesNotTakeBackWhatWasBought() public {
        _purchase();
        _setGate(AccessVault.Gate(IERC20(address(0)), 0, AccessVault.Offer(IERC20(address(0)), 0, 0)));
        assertTrue(vault.hasAccess("gated", buyer), "bought");
        vm.expectPartialRevert(AccessVault.NotForSale.selector);
        this.purchase(user, AccessVault.Offer(coin, PRICE, 1 days));
    }

    function testABuyerTakesTheOfferItSawOrNone() public {
        AccessVault.Offer[3] memory seen;
        seen[0] = AccessVault.Offer(coin, PRICE - 1, 1 days);
        seen[1] = AccessVault.Offer(token, PRICE, 1 days);
        seen[2] = AccessVault.Offer(coin, PRICE, 2 days);
        for (uint256 i; i < 3; ++i) {
            vm.expectPartialRevert(AccessVault.OfferChanged.selector);
            this.purchase(buyer, seen[i]);
        }
        assertEq(coin.balanceOf(proposer), 0, "nothing is paid");
    }

    function testATokenThatKeepsAFeeIsRefused() public {
        Stablecoin taxed = new Stablecoin(true);
        taxed.transfer(buyer, 1000e6);
        vm.prank(buyer);
        taxed.approve(address(vault), type(uint256).max);
        _setGate(AccessVault.Gate(IERC20(address(0)), 0, AccessVault.Offer(taxed, PRICE, 1 days)));
        vm.expectPartialRevert(AccessVault.PaymentNotWhole.selector);
        this.purchase(buyer, AccessVault.Offer(taxed, PRICE, 1 days));
    }

    function testAPurchaseMayBringItsAllowanceAlong() public {
        _setGate(AccessVault.Gate(IERC20(address(0)), 0, AccessVault.Offer(token, TOKEN, 1 days)));
        token.transfer(buyer, TOKEN);
        bytes32 permitHash = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                buyer,
                address(vault),
                TOKEN,
                token.nonces(buyer),
                block.timestamp
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), permitHash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(BUYER_KEY, digest);
        vm.prank(buyer);
        vault.purchaseWithPermit("gated", AccessVault.Offer(token, TOKEN, 1 days), block.timestamp, v, r, s);
        assertTrue(vault.hasAccess("gated", buyer), "access");
        assertEq(token.balanceOf(proposer), TOKEN, "whole");
    }

    function testARevokedAccountIsShutOutUntilItIsLetInAgain() public {
        _purchase();
        vm.prank(proposer);
        vault.setWrappedKey("gated", buyer, "wrapped");
        vm.prank(proposer);
        vault.revokeAccess("gated", buyer);
        assertTrue(!vault.hasAccess("gated", buyer), "shut out");
        assertEq(vault.grantOf("gated", buyer).wrappedKey.length, 0, "its key is forgotten");
        token.transfer(buyer, 10 * TOKEN);
        assertTrue(!vault.hasAccess("gated", buyer), "holding does not help");
        vm.expectPartialRevert(AccessVault.Revoked.selector);
        this.purchase(buyer, AccessVault.Offer(coin, PRICE, 1 days));
        vm.prank(proposer);
        vault.giveAccess("gated", buyer, 0);
        assertTrue(vault.hasAccess("gated", buyer), "let in again");
    }

    function testTheProposerGivesAccessAndDepositsKeysForThoseWhoHaveIt() public {
        vm.prank(proposer);
        vm.expectPartialRevert(AccessVault.NoAccess.selector);
        vault.setWrappedKey("gated", user, "wrapped");
        vm.prank(proposer);
        vault.giveAccess("gated", user, uint64(block.timestamp + 60));
        vm.prank(user);
        vault.setEncryptionKey(bytes32(uint256(9)));
        assertEq(vault.encryptionKeyOf(user), bytes32(uint256(9)), "encryption key");
        vm.prank(proposer);
        vault.setWrappedKey("gated", user, "wrapped");
        assertEq(keccak256(vault.grantOf("gated", user).wrappedKey), keccak256("wrapped"), "wrapped key");
        vm.prank(proposer);
        vm.expectPartialRevert(AccessVault.WrappedKeyLength.selector);
        vault.setWrappedKey("gated", user, "");
        vm.prank(user);
        vm.expectPartialRevert(AccessVault.EncryptionKeyZero.selector);
        vault.setEncryptionKey(0);
    }

    function testOnlyTheProposerKeepsTheGate() public {
        AccessVault.Gate memory gate = vault.gateOf("gated");
        assertEq(gate.offer.price, PRICE, "price");
        vm.expectPartialRevert(AccessVault.NotTheProposer.selector);
        vault.setGate("gated", gate);
        vm.expectPartialRevert(AccessVault.NotTheProposer.selector);
        vault.giveAccess("gated", user, 1);
        vm.expectPartialRevert(AccessVault.NotTheProposer.selector);
        vault.revokeAccess("gated", user);
        vm.expectPartialRevert(AccessVault.NotTheProposer.selector);
        vault.setWrappedKey("gated", user, "wrapped");
    }

    function testASignedRequestIsGoodForItsAccountModelAndTime() public {
        _purchase();
        AccessVault.AccessRequest memory request =
            AccessVault.AccessRequest("gated", buyer, 7, uint64(block.timestamp + 60));
        bytes memory signature = _sign(BUYER_KEY, vault.hashAccessRequest(request));
        assertTrue(vault.isAuthorised(request, signature), "authorised");
        assertTrue(!vault.isAuthorised(request, _sign(56, vault.hashAccessRequest(request))), "another's signature");
        request.nonce = 8;
        assertTrue(!vault.isAuthorised(request, signature), "another nonce");
        request.nonce = 7;
        vm.warp(block.timestamp + 61);
        assertTrue(!vault.isAuthorised(request, signature), "expired");
    }

    function testASignedRequestWithoutAccessIsRefused() public view {
        AccessVault.AccessRequest memory request =
            AccessVault.AccessRequest("gated", buyer, 7, uint64(block.timestamp + 60));
        assertTrue(!vault.isAuthorised(request, _sign(BUYER_KEY, vault.hashAccessRequest(request))), "no access");
    }
}
