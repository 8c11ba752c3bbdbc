"""quernd: builds the adapters and services from the settings and runs them. The only place that knows them all."""

import fcntl
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import structlog
import trio
from multiaddr import Multiaddr

import node
from node.amounts import tokens_to_amount
from node.api.models import make_model_app
from node.api.openai import make_app
from node.api.server import ApiPortError, bind_api, serve_api
from node.chain.account_lock import AccountInUseError
from node.chain.accounts import LocalAccount
from node.chain.adapter import EvmChain, WrongChainError, open_chain
from node.chain.addresses import DeploymentFileError, read_deployment
from node.chain.rpc import RpcError, RpcUnavailableError
from node.chain.sender import GWEI
from node.chain.watcher import DeepReorganisationError, NoFinalityError
from node.chain_operations import DaemonChainOperations
from node.content_operations import StoreOperations
from node.content_trees import NetworkTrees
from node.control.chain_methods import chain_method_table
from node.control.content_methods import content_method_table
from node.control.discovery_methods import discovery_method_table
from node.control.methods import Method, method_table
from node.control.model_methods import model_method_table
from node.control.peer_methods import peer_method_table
from node.control.server import ControlSocketError, serve_control
from node.discovery_operations import DaemonDiscoveryOperations
from node.engine.adapter import EngineEnvironment, EngineNode
from node.engine.arguments import EngineArgumentsError, merge_model_args
from node.key_deposits import KeyDeposits
from node.keys import KeyFileError, find_passphrase, load_peer_seed, unlock_keystore
from node.logs import configure_logs
from node.model_loader import ModelLoader, loaded_models
from node.model_operations import DaemonModelOperations
from node.models.content import ContentAdapter, ContentExchange, open_content
from node.models.content_tokens import read_gateway_token, read_provider_tokens
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
from node.network.gateway_lookup import GatewayLookup
from node.operations import DaemonOperations, Parts
from node.peer_operations import DaemonPeerOperations
from node.ports import Provider
from node.private_files import PrivateFileError
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.records import MLNodeRegistration
from node.services.batches import BatchService
from node.services.epochs import EpochBook, log_stages
from node.services.executor import Executor
from node.services.forming import FormingService
from node.services.gateway import Gateway
from node.services.gossip import GossipRouter
from node.services.mining import MiningService
from node.services.open_prompts import OpenPromptService
from node.services.payments import PayerBook
from node.services.presence import PresenceService, PresenceTable
from node.services.registration import RegistrationService
from node.services.settling import SettlingService
from node.services.validating import ValidatingService
from node.settings import Role, Settings, SettingsError, load_settings
from node.settings.locations import default_settings_file
from node.settings.schema import ContentSettings, EngineSettings
from node.store.bans import BanTable
from node.store.books import Books
from node.store.chain_tables import ChainTables
from node.store.database import Database
from node.store.migrations import SchemaTooNewError
from node.supervisor import ServiceGaveUpError, Supervisor
from node.version import package_version
from p2p.content.gateway.admission import GatewayLimits
from p2p.content.gateway.server import GatewayPortError
from p2p.content.more_sources import FindGateways
from p2p.content.source import BlockSource
from p2p.host import PortInUseError
from p2p.standing import Standing

log = structlog.get_logger(__name__)

ACCOUNT_CHARACTERS = slice(2, 10)
STOP_SECONDS = 0.2
RECURSION_LIMIT = 1000
"""Python's own. A library raises it to 100,000 when it is imported: see docs/decisions/0007."""
UNSPECIFIED_HOSTS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to

StartError = (
    SettingsError,
    KeyFileError,
    PrivateFileError,
    DeploymentFileError,
    WrongChainError,
    NoFinalityError,
    AccountInUseError,
    DeepReorganisationError,
    RpcUnavailableError,
    RpcError,
    PortInUseError,
    GatewayPortError,
    ApiPortError,
    PrivateFileError,
    ControlSocketError,
    SchemaTooNewError,
    EngineArgumentsError,
    ServiceGaveUpError,
)
"""What an operator can do something about: one line, no traceback."""


class DataDirectoryInUseError(SettingsError):
    """Another daemon runs with this data directory: two would send and sign against each other."""


def wall_clock() -> int:
    """UNIX seconds."""
    return int(time.time())


async def run_daemon(settings: Settings, passphrase: str) -> None:
    """Run a daemon until cancelled or told to stop over its control socket."""
    data_dir = settings.node.data_dir
    account = LocalAccount(await trio.to_thread.run_sync(unlock_keystore, settings.account.keystore, passphrase))
    deployment = read_deployment(settings.chain.deployment)
    engines = [_engine(engine, data_dir) for engine in settings.engines]
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
                exchange=_content_exchange(settings.content, standing),
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
                find_gateways=_gateway_finder(network, content),
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
            methods = chain_method_table(shown) | peer_method_table(conduct) | discovery_method_table(found)
            presence = PresenceTable(chain, wall_clock)
            async with open_manager(settings.models, database, content, presence.providers, wall_clock) as manager:
                await _run_services(
                    settings, chain, content, network, vault, books, engines, network_id, methods, presence, manager
                )
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
) -> None:
    supervisor = Supervisor()
    router = GossipRouter(network)
    epochs = EpochBook(chain, content, store, presence)
    batches = BatchService(network, router, presence)
    provider = Provider(_content_host(settings, network), content.port)
    executor = Executor(
        chain,
        network,
        store,
        epochs,
        batches,
        engines,
        unpaid_tokens_max=settings.payments.unpaid_tokens_max,
        wall_clock=wall_clock,
    )
    gateway = _gateway(settings, chain, network, store, epochs, presence, batches)
    listener = None if gateway is None else bind_api(settings.api.host, settings.api.port)

    if settings.participant.register_on_start:
        nodes = [
            MLNodeRegistration(NodeId(engine.node_id), (ModelId(engine.model_id),), engine.hardware)
            for engine in settings.engines
        ]
        supervisor.add("registration", RegistrationService(chain, network, nodes).run)
    presence_service = PresenceService(
        chain,
        network,
        router,
        presence,
        content=provider,
        loaded_models=lambda: loaded_models(engines),
        load=lambda: executor.running,
        version=package_version(),
        wall_clock=wall_clock,
    )
    supervisor.add("presence", presence_service.run)
    supervisor.add("epochs", epochs.run)
    supervisor.add("stages", partial(log_stages, chain))
    supervisor.add("batches", batches.run)
    library = ModelLibrary(manager)
    supervisor.add("models", manager.run)
    _serve_models(settings, manager, supervisor)
    for engine, wanted in zip(engines, settings.engines, strict=True):
        loader = ModelLoader(chain, library, vault, engine, ModelId(wanted.model_id))
        mining = MiningService(chain, network, content, engine, nonces_max=settings.mining.nonces_max)
        supervisor.add(f"engine {engine.node_id}", engine.run)
        supervisor.add(f"model {engine.node_id}", loader.run)
        supervisor.add(f"mining {engine.node_id}", mining.run)
    forming = FormingService(chain, network, content, store, presence, epochs, router)
    settling = SettlingService(
        chain,
        store,
        epochs,
        claim_rewards=settings.participant.claim_rewards,
        redeem_vouchers=settings.participant.redeem_vouchers,
    )
    supervisor.add("validating", ValidatingService(chain, network, content, store, presence, engines).run)
    supervisor.add("forming", forming.run)
    supervisor.add("settling", settling.run)
    supervisor.add("open prompts", OpenPromptService(chain, content, presence, engines).run)
    supervisor.add("gossip", router.run)
    supervisor.add("holding", ModelHolding(content, manager.registry).run)
    api_url = None
    if gateway is not None and listener is not None:
        app = make_app(gateway, wall_clock)
        bound_host, bound_port = listener.getsockname()[:2]
        api_url = f"http://{bound_host}:{bound_port}/v1"
        supervisor.add("api", lambda: serve_api(app, listener), essential=True)

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
            engines=engines,
            supervisor=supervisor,
            network_id=network_id,
            api_url=api_url,
            content_address=f"http://{provider.host}:{provider.port}",
            running_requests=lambda: executor.running,
            started_at=wall_clock(),
            wall_clock=wall_clock,
        )
        stop_asked = trio.Event()
        nursery.start_soon(_stop_after, stop_asked, nursery.cancel_scope)
        operations = DaemonOperations(parts, stop_asked.set)
        # Any: trio does not export the type that Nursery.start asks for.
        trees = StoreOperations(content.store, NetworkTrees(content, presence.providers))
        models = DaemonModelOperations(manager, settings.models.bytes_max)
        methods = method_table(operations) | content_method_table(trees) | model_method_table(models) | more_methods
        control: Any = partial(serve_control, settings.control.socket, methods)
        await nursery.start(control)
        log.info("quernd is running", account=chain.account, peer=network.peer_id, api=api_url)
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


async def _stop_after(asked: trio.Event, scope: trio.CancelScope) -> None:
    await asked.wait()
    await trio.sleep(STOP_SECONDS)  # the answer to whoever asked goes out first
    log.info("stopping, as asked over the control socket")
    scope.cancel()


def _gateway(
    settings: Settings,
    chain: EvmChain,
    network: LibP2PNetwork,
    store: Books,
    epochs: EpochBook,
    presence: PresenceTable,
    batches: BatchService,
) -> Gateway | None:
    if not settings.has_role(Role.GATEWAY):
        return None
    payer = PayerBook(
        chain,
        store,
        channel_deposit=tokens_to_amount(settings.payments.channel_deposit),
        budget=tokens_to_amount(settings.payments.budget),
    )
    return Gateway(chain, network, store, epochs, presence, batches, payer, wall_clock=wall_clock)


def _engine(settings: EngineSettings, data_dir: Path) -> EngineNode:
    merge_model_args((), settings.model_args)  # a wrong option is the operator's, and is named at once
    environment = EngineEnvironment(settings.python or default_engine_python(), settings.kv_cache_gib)
    if not environment.python.exists():
        raise SettingsError(
            f"[[engines]] {settings.node_id}: there is no engine environment at {environment.python}: "
            "run scripts/setup, or set python to that of an environment with vLLM"
        )
    return EngineNode(NodeId(settings.node_id), environment, data_dir, settings.model_args)


def default_engine_python() -> Path:
    """Return the Python of the engine environment that scripts/setup made: the GPU's where there is one."""
    root = Path(node.__file__).resolve().parents[1] / ".engine"
    gpu = root / "gpu" / "bin" / "python"
    return gpu if gpu.exists() else root / "cpu" / "bin" / "python"


def _content_exchange(settings: ContentSettings, standing: Standing) -> ContentExchange:
    return ContentExchange(
        limits=GatewayLimits(
            connections_max=settings.connections_max,
            connections_per_address_max=settings.connections_per_address_max,
            requests_per_second=settings.requests_per_second,
            bytes_per_second=settings.upload_bytes_per_second,
        ),
        token=read_gateway_token(settings.token_file),
        provider_tokens=read_provider_tokens(settings.provider_tokens_file),
        download_bytes_per_second=settings.download_bytes_per_second,
        standing=standing,
    )


def _gateway_finder(network: LibP2PNetwork, content: ContentAdapter) -> FindGateways:
    """Have peers that the DHT names give by their content gateways, and tell them of ours if it is open."""
    lookup = GatewayLookup(network, 0 if content.exchange.token else content.port)

    async def find(peers: Sequence[str]) -> list[BlockSource]:
        return [content.source(provider) for provider in await lookup.find(peers)]

    return find


def _content_host(settings: Settings, network: LibP2PNetwork) -> str:
    """Return the host peers are told for content: the setting, else the first address they can dial."""
    if settings.content.announce_host:
        return settings.content.announce_host
    for address in network.addresses:
        for protocol in ("ip4", "ip6", "dns4", "dns"):
            try:
                host = Multiaddr(address).value_for_protocol(protocol)
            except Exception:  # noqa: S112 - the library has no common base; the address has another protocol
                continue
            if host and host not in UNSPECIFIED_HOSTS:
                return str(host)
    return "127.0.0.1"


@contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process. Raises DataDirectoryInUseError."""
    with (data_dir / "quernd.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataDirectoryInUseError(
                f"another quernd runs with the data directory {data_dir}: stop it first"
            ) from error
        yield


@asynccontextmanager
async def stopped_by_signals() -> AsyncIterator[None]:
    """Leave the block in order when SIGINT or SIGTERM comes."""

    async def watch(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            log.info("stopping", signal=signal.Signals(number).name)
            scope.cancel()
            return

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, signals, nursery.cancel_scope)
            yield
            nursery.cancel_scope.cancel()


async def _main(settings: Settings, passphrase: str) -> None:
    async with stopped_by_signals():
        await run_daemon(settings, passphrase)


def first_error(error: BaseException) -> BaseException:
    """Return the first error within nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=default_settings_file,
    show_default="~/.quern/quern.toml, or $QUERN_DATA_DIR/quern.toml",
    help="Settings file; `quern init` writes one.",
)
@click.version_option(package_version(), prog_name="quernd")
def main(config: Path) -> None:
    """Run a Quern daemon until it is interrupted.

    It serves and proves the models its settings name, takes requests of users, and is paid for it. Operate it with
    `quern`.
    """
    sys.setrecursionlimit(RECURSION_LIMIT)
    try:
        settings = load_settings(config)
        configure_logs(settings.node.log_level, settings.node.log_format, settings.node.log_file)
        with exclusive(settings.node.data_dir):
            trio.run(_main, settings, _passphrase(settings))
    except BaseException as error:
        reason = first_error(error)
        if isinstance(reason, KeyboardInterrupt):
            sys.exit(130)
        if not isinstance(reason, (*StartError, OSError)):
            raise
        click.echo(f"quernd: {reason}", err=True)
        sys.exit(1)


def _passphrase(settings: Settings) -> str:
    prompt = (lambda: str(click.prompt("Passphrase", hide_input=True))) if os.isatty(0) else None
    return find_passphrase(settings.account.passphrase_file, settings.account.passphrase_env, prompt)


if __name__ == "__main__":
    main()
