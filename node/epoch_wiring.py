"""Wires what a daemon does for an epoch: proving, validating, auditing, forming its result, punishing."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from node.audit_wiring import add_auditing
from node.control.audit_methods import audit_method_table
from node.control.challenge_methods import challenge_method_table
from node.control.methods import Method
from node.control.poc_methods import poc_method_table
from node.control.reward_methods import reward_method_table
from node.models.content import FREE_BYTES_MIN
from node.operations.audits import DaemonAuditOperations
from node.operations.challenges import DaemonChallengeOperations
from node.operations.poc import DaemonPocOperations
from node.operations.rewards import DaemonRewardOperations
from node.ports import Chain, Content, Network
from node.protocol.identifiers import NodeId
from node.services.answers_at_hand import AnswersAtHand
from node.services.brokered import BrokeredEngine
from node.services.calibration_notices import log_unmeasured_hardware, log_void_calibrations
from node.services.challenge_book import ChallengeBook, judged_by_result
from node.services.epochs import EpochBook
from node.services.forming import FormingService
from node.services.gateway import Gateway
from node.services.gossip import GossipRouter
from node.services.mining import MiningService
from node.services.objecting import ObjectingService, Report
from node.services.objections_heard import ObjectionsHeard
from node.services.observing import Measures, Observer
from node.services.poc_slots import PocSlots
from node.services.presence import PresenceTable
from node.services.punishing import PunishingService
from node.services.receipt_book import ReceiptBookKeeper
from node.services.tidying import TidyingService
from node.services.validating import ValidatingService
from node.settings import Settings
from node.store.books import Books
from node.store.nonce_file import NonceFile
from node.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class EpochParts:
    """What these services work with."""

    settings: Settings
    chain: Chain
    network: Network
    content: Content
    store: Books
    presence: PresenceTable
    epochs: EpochBook
    router: GossipRouter
    engines: Sequence[BrokeredEngine]
    """In the order of the settings."""
    receipts: ReceiptBookKeeper
    gateway: Gateway | None
    """Asks decoys; None where there is none."""
    slots: PocSlots
    measures: Measures
    """What this node's gateway measured of executors since it was last asked."""
    report_false_result: Report
    """Tells the operator that an accepted result is false."""


def add_epoch_services(parts: EpochParts, supervisor: Supervisor) -> dict[str, Method]:
    """Add the services, and return the control methods that tell of them.

    Engines that only know text prove nothing, and so validate nothing.
    """
    chain, network, content, store = parts.chain, parts.network, parts.content, parts.store
    slots = parts.slots
    supervisor.add("calibrations", partial(log_void_calibrations, chain))
    supervisor.add("hardware without a band", partial(log_unmeasured_hardware, chain))
    forming = FormingService(chain, network, content, store, parts.presence, parts.epochs, slots, parts.router)
    supervisor.add("forming", forming.run)
    objecting = ObjectingService(
        chain,
        network,
        content,
        store,
        parts.presence,
        parts.epochs,
        slots,
        forming.signatures,
        ObjectionsHeard(chain, parts.router),
        parts.report_false_result,
    )
    supervisor.add("objecting", objecting.run)
    supervisor.add("tidying", TidyingService(chain, store, content, parts.epochs).run)
    supervisor.add("punishing", PunishingService(chain, network, store, parts.epochs, parts.router).run)
    settings = parts.settings
    challenges = ChallengeBook(store, partial(judged_by_result, chain, parts.epochs))
    auditing = add_auditing(
        settings,
        chain,
        network,
        content,
        store,
        parts.presence,
        parts.epochs,
        parts.gateway,
        parts.engines,
        parts.receipts,
        challenges,
        supervisor,
    )
    provers = [e for e, wanted in zip(parts.engines, settings.engines, strict=True) if wanted.api == "vllm"]
    nonces_max = settings.mining.nonces_max
    miners = [
        MiningService(chain, content, engine, slots, nonces_max=nonces_max, kept=nonce_file(settings, engine.node_id))
        for engine in provers
    ]
    for miner in miners:
        supervisor.add(f"mining {miner.node_id}", miner.run)
    wants_scaling = parts.settings.participant.scale_preserved_weight
    observer = Observer(chain, parts.epochs, parts.presence, store, parts.measures, wants_scaling=wants_scaling)
    supervisor.add("observing", observer.run)
    validating = ValidatingService(
        chain, content, store, parts.presence, parts.epochs, provers, auditing, observer.take
    )
    supervisor.add("validating", validating.run)
    audits = DaemonAuditOperations(chain, store, parts.epochs, auditing)
    at_hand = AnswersAtHand() if parts.gateway is None else parts.gateway.at_hand
    doubted = DaemonChallengeOperations(
        chain, store, parts.epochs, at_hand, parts.receipts.given, challenges, parts.engines
    )
    rewards = DaemonRewardOperations(chain, content, store, parts.presence, parts.epochs)
    proofs = DaemonPocOperations(
        chain, content, store, parts.presence, parts.epochs, forming.signatures, miners, provers, objecting
    )
    methods = audit_method_table(audits) | challenge_method_table(doubted)
    return methods | reward_method_table(rewards) | poc_method_table(proofs)


def nonce_file(settings: Settings, node_id: NodeId) -> NonceFile:
    """Return where an ML node's nonces are kept until they are committed."""
    # A node's name may have characters that no file's name has.
    path = settings.node.data_dir / "nonces" / hashlib.sha256(node_id.encode()).hexdigest()[:16]
    return NonceFile(path, free_bytes_min=FREE_BYTES_MIN)
