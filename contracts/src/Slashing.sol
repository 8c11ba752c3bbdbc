// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IEpochManager} from "./interfaces/IEpochManager.sol";
import {IParticipantRegistry} from "./interfaces/IParticipantRegistry.sol";

/// @title Penalties for proven fraud and for downtime, on the verdict of a quorum.
/// @notice The evidence is content by CID that anyone can recompute; the chain holds what more than two thirds of the
/// epoch's weight made of it. What a verdict costs is set by governance within fixed bounds (docs/economics.md says what
/// deters). Each participant is punished at most once for each kind of offence in an epoch.
contract Slashing is EIP712, Ownable2Step {
    enum Offence {
        FRAUD,
        DOWNTIME
    }

    /// @notice What a quorum signs.
    struct Verdict {
        uint64 epoch;
        address participant;
        Offence offence;
        bytes evidenceCid;
    }

    /// @notice What an offence costs: thousandths of the collateral, and epochs, the present one first, whose
    /// proofs do not count.
    struct Penalty {
        uint16 perMille;
        uint32 barredEpochs;
    }

    bytes32 public constant VERDICT_TYPEHASH =
        keccak256("Verdict(uint64 epoch,address participant,uint8 offence,bytes evidenceCid)");
    /// @notice A verdict is executed at most so many epochs after the offence. Collateral must unbond more slowly, or an
    /// offender escapes; and weights of long ago, whose keys may be sold, decide nothing.
    uint64 public constant VERDICT_EPOCHS_MAX = 8;
    /// @notice Downtime is no fraud: whatever governance sets, it cannot cost more of the collateral than this.
    uint16 public constant DOWNTIME_PER_MILLE_MAX = 100;
    uint16 public constant PER_MILLE = 1000;
    /// @dev A year of epochs of an hour.
    uint32 public constant BARRED_EPOCHS_MAX = 8760;
    uint256 public constant CID_LENGTH_MAX = 64;

    IEpochManager public immutable epochManager;
    IParticipantRegistry public immutable participantRegistry;

    mapping(Offence offence => Penalty) private _penalties;
    /// @notice Whether a participant was punished for an offence in an epoch.
    mapping(uint64 epoch => mapping(address participant => mapping(Offence offence => bool))) public isPunished;

    event PenaltySet(Offence indexed offence, uint16 perMille, uint32 barredEpochs);
    event ParticipantPunished(
        uint64 indexed epoch, address indexed participant, Offence indexed offence, uint256 amount, bytes evidenceCid
    );

    error PenaltyOutOfRange(Offence offence, uint16 perMille, uint32 barredEpochs);
    error VerdictTooOld(uint64 epoch, uint64 currentEpoch);
    error VerdictFromTheFuture(uint64 epoch, uint64 currentEpoch);
    error AlreadyPunished(uint64 epoch, address participant, Offence offence);
    error CidLength(uint256 length);
    error QuorumNotReached(uint256 signed, uint256 total);

    /// @param initialOwner Sets the penalties: governance.
    constructor(
        IEpochManager epochManager_,
        IParticipantRegistry participantRegistry_,
        Penalty memory fraud,
        Penalty memory downtime,
        address initialOwner
    ) EIP712("Quern", "1") Ownable(initialOwner) {
        epochManager = epochManager_;
        participantRegistry = participantRegistry_;
        _setPenalty(Offence.FRAUD, fraud);
        _setPenalty(Offence.DOWNTIME, downtime);
    }

    /// @notice Set what an offence costs from now on.
    function setPenalty(Offence offence, Penalty calldata penalty) external onlyOwner {
        _setPenalty(offence, penalty);
    }

    /// @notice Execute a verdict signed by more than two thirds of the weight of its epoch's group. Anyone may.
    /// @param signerBitmap Who signed (see IQuorumVerifier).
    /// @param signatures Their signatures on `hashVerdict(verdict)`, in the order of the members.
    function punish(Verdict calldata verdict, uint256[] calldata signerBitmap, bytes calldata signatures) external {
        uint64 current = _checkVerdict(verdict);
        (uint256 signed, uint256 total) =
            epochManager.weighSignatures(verdict.epoch, hashVerdict(verdict), signerBitmap, signatures);
        if (3 * signed <= 2 * total) revert QuorumNotReached(signed, total);
        isPunished[verdict.epoch][verdict.participant][verdict.offence] = true;
        Penalty memory penalty = _penalties[verdict.offence];
        uint256 amount =
            participantRegistry.slash(verdict.participant, penalty.perMille, current + penalty.barredEpochs);
        emit ParticipantPunished(verdict.epoch, verdict.participant, verdict.offence, amount, verdict.evidenceCid);
    }

    /// @notice What `offence` costs now.
    function penaltyOf(Offence offence) external view returns (Penalty memory) {
        return _penalties[offence];
    }

    /// @notice EIP-712 digest of a verdict: what the members of its epoch's group sign.
    function hashVerdict(Verdict calldata verdict) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(
                    VERDICT_TYPEHASH,
                    verdict.epoch,
                    verdict.participant,
                    verdict.offence,
                    keccak256(verdict.evidenceCid)
                )
            )
        );
    }

    function _checkVerdict(Verdict calldata verdict) private view returns (uint64 current) {
        uint256 length = verdict.evidenceCid.length;
        if (length == 0 || length > CID_LENGTH_MAX) revert CidLength(length);
        (current,,,) = epochManager.currentStage();
        if (verdict.epoch > current) revert VerdictFromTheFuture(verdict.epoch, current);
        if (current - verdict.epoch > VERDICT_EPOCHS_MAX) revert VerdictTooOld(verdict.epoch, current);
        if (isPunished[verdict.epoch][verdict.participant][verdict.offence]) {
            revert AlreadyPunished(verdict.epoch, verdict.participant, verdict.offence);
        }
    }

    function _setPenalty(Offence offence, Penalty memory penalty) private {
        uint16 most = offence == Offence.FRAUD ? PER_MILLE : DOWNTIME_PER_MILLE_MAX;
        if (penalty.perMille > most || penalty.barredEpochs > BARRED_EPOCHS_MAX) {
            revert PenaltyOutOfRange(offence, penalty.perMille, penalty.barredEpochs);
        }
        _penalties[offence] = penalty;
        emit PenaltySet(offence, penalty.perMille, penalty.barredEpochs);
    }
}
