"""quernd: builds the adapters and services from the settings and runs them. The only place that knows them all."""

import time
from functools import partial
from typing import Any

import structlog
import trio

from node.alert_wiring import engine_hook, make_desk, watch_over
from node.alerts.desk import AlertDesk
from node.alerts.kinds import AlertKind
from node.amounts import tokens_to_amount
from node.api.models import make_model_app
from node.api.openai.gatekeeper import Gatekeeper
from node.api.server import bind_api, serve_api
from node.api_wiring import add_api
from node.audit_wiring import make_receipt_book
from node.chain.accounts import LocalAccount
from node.chain.adapter import EvmChain, open_chain
from node.chain.addresses import read_deployment
from node.chain.fees import GWEI
from node.content_wiring import content_exchange, content_host, gateway_finder
from node.control.calibration_methods import calibration_method_table
from node.control.chain_methods import chain_method_table
from node.control.content_methods import content_method_table
from node.control.discovery_methods import discovery_method_table
from node.control.key_methods import key_method_table
from node.control.methods import Method, method_table
from node.control.model_methods import model_method_table
from node.control.node_methods import node_method_table
from node.control.peer_methods import peer_method_table
from node.control.prompt_methods import prompt_method_table
from node.control.receipt_methods import receipt_method_table
from node.control.server import serve_control
from node.engine.adapter import EngineNode
from node.epoch_wiring import EpochParts, add_epoch_services
from node.key_deposits import KeyDeposits
from node.keys import load_peer_seed
from node.ml_nodes import make_engine, make_loader, places_of, registrations
from node.model_loader import loaded_models
from node.models.content import ContentAdapter, open_content
from node.models.encryption.keyring import KeyRing
from node.models.encryption.wrapping import Unwrapper
from node.models.holding import ModelHolding
from node.models.ipfs_exchange import open_ipfs_exchange
from node.models.library import ModelLibrary
from node.models.manager import ModelManager
from node.models.opening import open_manager
from node.models.tokens import read_api_tokens
from node.models.vault import ModelVault, open_vault
from node.network.adapter import LibP2PNetwork, open_network
from node.network.bans import open_standing
from node.network.discovery import discovery_options
from node.openai_wiring import open_gatekeeper
from node.operations.calibration import DaemonCalibrationOperations
from node.operations.chain import DaemonChainOperations
from node.operations.content import StoreOperations
from node.operations.content_trees import NetworkTrees
from node.operations.daemon import DaemonOperations, Parts
from node.operations.discovery import DaemonDiscoveryOperations
from node.operations.models import DaemonModelOperations
from node.operations.nodes import DaemonNodeOperations
from node.operations.peers import DaemonPeerOperations
from node.operations.prompts import DeskPromptOperations
from node.operations.receipts import DaemonReceiptOperations
from node.payment_wiring import add_payments
from node.ports import Provider
from node.prompt_sealing import PeerSealing
from node.prompt_wiring import PromptParts, add_prompt_services
from node.protocol.identifiers import NodeId
from node.services.batches import BatchService
from node.services.broker import Broker
from node.services.brokered import brokered
from node.services.epochs import EpochBook, log_stages
from node.services.executor import Executor
from node.services.faults import FaultBook
from node.services.gateway import Gateway
from node.services.gossip import GossipRouter
from node.services.observing import Measures
from node.services.payments import PayerBook
from node.services.poc_slots import PocSlots
from node.services.presence import PresenceService, PresenceTable
from node.services.registration import RegistrationService
from node.services.terms import free_mode
from node.settings import Role, Settings
from node.stopping import StopRequest
from node.store.bans import BanTable
from node.store.books import Books
from node.store.chain_tables import ChainTables
from node.store.database import Database
from node.supervisor import Supervisor
from node.telemetry_wiring import add_metrics, make_scraper
from node.unlocking import Unlocked
from node.version import package_version
from p2p.standing import Standing

log = structlog.get_logger(__name__)

ACCOUNT_CHARACTERS = slice(2, 10)
STOP_SECONDS = 0.2


def wall_clock() -> int:
    """UNIX seconds."""
    return int(time.time())


async def run_daemon(settings: Settings, key: Unlocked, stop: StopRequest | None = None) -> None:
    """Run a daemon until cancelled, or told to stop by `stop` or over its control socket."""
    data_dir = settings.node.data_dir
    account = LocalAccount(await trio.to_thread.run_sync(key.result))
    deployment = read_deployment(settings.chain.deployment)
    desk = make_desk(settings, wall_clock)
    engines = [make_engine(engine, data_dir, engine_hook(desk, engine.node_id)) for engine in settings.engines]
    database = Database(data_dir / "quern.sqlite")
    network_id = f"{deployment.chain_id}-{deployment.addresses.epoch_manager[ACCOUNT_CHARACTERS].lower()}"
    try:
        async with (
            open_chain(
                rpc_urls=settings.chain.rpc_urls,
                chain_id=settings.chain.chain_id,
                deployment=deployment,
                account=account,
                database=database,
                confirmations=settings.chain.confirmations,
                poll_seconds=settings.chain.poll_seconds,
                wall_clock=wall_clock,
                finality=settings.chain.finality,
                max_fee_wei=settings.chain.max_fee_gwei * GWEI,
                gas_reserve_wei=tokens_to_amount(settings.chain.gas_reserve_ether),
            ) as chain,
            open_standing(BanTable(database), wall_clock) as standing,
            open_content(
                data_dir / "content",
                host=settings.content.host,
                port=settings.content.port,
                cache_bytes_max=settings.content.cache_bytes_max,
                exchange=content_exchange(settings.content, standing),
            ) as content,
            open_network(
                seed=load_peer_seed(settings.p2p.key),
                listen=settings.p2p.listen,
                announce=settings.p2p.announce,
                bootstrap=settings.p2p.bootstrap,
                network_id=network_id,
                account=account.address,
                sign=account.sign_digest,
                wall_clock=wall_clock,
                standing=standing,
                discovery=discovery_options(settings, network_id),
            ) as network,
            open_ipfs_exchange(
                content,
                network.host,
                standing,
                bitswap=settings.content.bitswap,
                web_gateways=settings.content.web_gateways,
                kubo_api=settings.content.kubo_api,
                finder=network.discovery,
                connect=network.discovery.dialer.connect,
                find_gateways=gateway_finder(network, content),
            ),
            open_vault(
                settings.vault.unsealed_dir,
                KeyRing(settings.vault.keys_dir),
                Unwrapper(load_peer_seed(settings.p2p.key), account.private_key),
                KeyDeposits(chain).wrapped_key,
            ) as vault,
        ):
            books = Books(database, account.address)
            shown = DaemonChainOperations(settings, chain, ChainTables(database), books, wall_clock)
            conduct = DaemonPeerOperations(standing, network.peer_id, network.refused_connections)
            found = DaemonDiscoveryOperations(network.discovery, network.peer_id, network.clock_skew_seconds)
            gatekeeper, keys = open_gatekeeper(settings, chain, database, wall_clock)
            methods = chain_method_table(shown) | peer_method_table(conduct) | discovery_method_table(found)
            methods |= node_method_table(DaemonNodeOperations(chain, engines, settings.engines))
            methods |= calibration_method_table(DaemonCalibrationOperations(chain, engines))
            methods |= key_method_table(keys)
            presence = PresenceTable(chain, wall_clock)
            async with open_manager(settings.models, database, content, presence.providers, wall_clock) as manager:
                await _run_services(
                    settings, chain, content, network, vault, books, engines, network_id, methods, presence, manager,
                    stop or StopRequest(), standing, desk, gatekeeper,
                )  # fmt: skip
    finally:
        database.close()


async def _run_services(
    settings: Settings,
    chain: EvmChain,
    content: ContentAdapter,
    network: LibP2PNetwork,
    vault: ModelVault,
    store: Books,
    engines: list[EngineNode],
    network_id: str,
    more_methods: dict[str, Method],
    presence: PresenceTable,
    manager: ModelManager,
    stop: StopRequest,
    standing: Standing,
    desk: AlertDesk,
    gatekeeper: Gatekeeper,
) -> None:
    started_at, supervisor = wall_clock(), Supervisor()
    router = GossipRouter(network)
    epochs = EpochBook(chain, content, store, presence)
    batches = BatchService(network, router, presence)
    provider = Provider(content_host(settings, network), content.port)
    broker = Broker(engines, {NodeId(engine.node_id): places_of(engine) for engine in settings.engines})
    duties = brokered(engines, broker)
    book = make_receipt_book(chain, content, store, vectors_bytes_max=settings.node.vectors_kept_bytes_max)
    executor = Executor(
        chain,
        network,
        store,
        epochs,
        batches,
        broker,
        unpaid_tokens_max=settings.payments.unpaid_tokens_max,
        wall_clock=wall_clock,
        free=free_mode(free=settings.payments.free, accounts=settings.payments.free_accounts),
        book=book,
    )
    payments = add_payments(settings, chain, store, epochs, supervisor)
    gateway = _gateway(settings, chain, network, store, epochs, presence, batches, payments.payer)

    if settings.participant.register_on_start:
        nodes = await trio.to_thread.run_sync(registrations, settings.engines)
        supervisor.add("registration", RegistrationService(chain, network, nodes).run)
    presence_service = PresenceService(
        chain,
        network,
        router,
        presence,
        content=provider,
        loaded_models=lambda: loaded_models(engines),
        load=lambda: broker.load,
        free=settings.payments.free,
        version=package_version(),
        wall_clock=wall_clock,
        capacity=lambda: broker.capacity,
        seeds=executor.seeds.announcement,
    )
    supervisor.add("presence", presence_service.run)
    supervisor.add("epochs", epochs.run)
    supervisor.add("stages", partial(log_stages, chain))
    supervisor.add("batches", batches.run)
    library = ModelLibrary(manager)
    supervisor.add("models", manager.run)
    _serve_models(settings, manager, supervisor)
    for engine, wanted in zip(engines, settings.engines, strict=True):
        loader = make_loader(chain, epochs, library, vault, engine, wanted)
        supervisor.add(f"engine {engine.node_id}", engine.run)
        supervisor.add(f"model {engine.node_id}", loader.run)
    measures: Measures = tuple if gateway is None else gateway.speeds.take_measures
    slots = PocSlots(chain, epochs)
    epoch_methods = add_epoch_services(
        EpochParts(
            settings,
            chain,
            network,
            content,
            store,
            presence,
            epochs,
            router,
            duties,
            book,
            gateway,
            slots,
            measures,
            partial(desk.report, AlertKind.FALSE_RESULT),
        ),
        supervisor,
    )
    prompts = add_prompt_services(
        PromptParts(
            chain,
            network,
            content,
            store,
            epochs,
            presence,
            batches,
            router,
            duties,
            executor.payments,
            executor.funding,
            settings.payments.free,
            None if gateway is None else gateway.payer,
            FaultBook(store, wall_clock) if gateway is None else gateway.faults,
            PeerSealing(load_peer_seed(settings.p2p.key)),
            wall_clock,
            book,
        ),
        supervisor,
    )
    supervisor.add("gossip", router.run)
    supervisor.add("holding", ModelHolding(content, manager.registry).run)
    serving = add_api(settings, chain, epochs, duties, gateway, gatekeeper, prompts, supervisor, started_at, wall_clock)
    watching = watch_over(
        settings, chain, network, standing, engines, slots, supervisor, desk, network_id, wall_clock,
        payments.payer.deposits.out_of_budget,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        parts = Parts(
            settings=settings,
            chain=chain,
            network=network,
            content=content,
            store=store,
            epochs=epochs,
            presence=presence,
            gateway=gateway,
            prompts=prompts,
            engines=engines,
            supervisor=supervisor,
            network_id=network_id,
            api_url=serving.url,
            content_address=f"http://{provider.host}:{provider.port}",
            running_requests=lambda: executor.running,
            redeem_plan=payments.redeeming.plan,
            started_at=started_at,
            wall_clock=wall_clock,
        )
        stop.heeded = True
        nursery.start_soon(_stop_after, stop, engines, nursery.cancel_scope)
        operations = DaemonOperations(parts, stop.asked.set)
        # Any: trio does not export the type that Nursery.start asks for.
        trees = StoreOperations(content.store, NetworkTrees(content, presence.providers))
        models = DaemonModelOperations(manager, settings.models.bytes_max)
        receipts = DaemonReceiptOperations(chain, store, epochs, engines)
        methods = method_table(operations) | content_method_table(trees) | model_method_table(models) | more_methods
        methods |= receipt_method_table(receipts)
        methods |= epoch_methods | prompt_method_table(DeskPromptOperations(prompts))
        methods |= watching.methods
        add_metrics(settings.metrics, make_scraper(methods, serving, watching, broker, gateway), supervisor)
        control: Any = partial(serve_control, settings.control.socket, methods)
        await nursery.start(control)
        log.info("quernd is running", account=chain.account, peer=network.peer_id, api=serving.url)
        await supervisor.run()


def _serve_models(settings: Settings, manager: ModelManager, supervisor: Supervisor) -> None:
    """Add the management API of models, if anybody has a token for it."""
    tokens_file = settings.models.api_tokens_file
    if not read_api_tokens(tokens_file):
        return
    host, port = settings.models.api_host, settings.models.api_port
    listener = bind_api(host, port, name="the API of models", key="[models] api_port")
    log.info("the API of models is served", host=host, port=listener.getsockname()[1])
    supervisor.add("model api", partial(serve_api, make_model_app(manager, tokens_file), listener))


async def _stop_after(stop: StopRequest, engines: list[EngineNode], scope: trio.CancelScope) -> None:
    """End the daemon when that is asked for, once its engines have finished what they run."""
    await stop.asked.wait()
    await trio.sleep(STOP_SECONDS)  # the answer to whoever asked goes out first
    log.info("stopping, as asked", running_requests=sum(engine.running_requests for engine in engines))
    async with trio.open_nursery() as nursery:
        for engine in engines:
            nursery.start_soon(engine.drain)
    scope.cancel()


def _gateway(
    settings: Settings,
    chain: EvmChain,
    network: LibP2PNetwork,
    store: Books,
    epochs: EpochBook,
    presence: PresenceTable,
    batches: BatchService,
    payer: PayerBook,
) -> Gateway | None:
    if not settings.has_role(Role.GATEWAY):
        return None
    return Gateway(
        chain,
        network,
        store,
        epochs,
        presence,
        batches,
        payer,
        wall_clock=wall_clock,
        answers_kept_max=settings.payments.answers_kept_max,
        private_answers_kept_seconds=settings.payments.private_answers_kept_seconds,
    )
