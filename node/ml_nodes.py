"""Makes the ML nodes that the settings name: servers of this machine, or those at a URL."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import node
from node.engine.adapter import EngineNode
from node.engine.alerts import AlertHook, no_alerts
from node.engine.arguments import OPERATOR_OPTIONS, merge_model_args, parse_options
from node.engine.endpoint import VLLM_API, Endpoint, parse_endpoint
from node.engine.hardware import detect_hardware
from node.engine.running import EngineEnvironment
from node.model_loader import ModelLoader
from node.models.library import ModelLibrary
from node.models.vault import ModelVault
from node.node_assignments import EpochAssignments
from node.ports import Chain
from node.private_files import read_private_file
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.records import MLNodeRegistration
from node.services.broker import PLACES_DEFAULT
from node.services.epochs import EpochBook
from node.settings import SettingsError
from node.settings.sections.engines import EngineSettings

API_KEY_CHARACTERS_MAX = 4096
TEXT_HARDWARE = "text only"
REMOTE_HARDWARE = "remote vLLM"
"""What stands on chain for a server elsewhere whose hardware the operator did not name."""


def make_engine(settings: EngineSettings, data_dir: Path, on_alert: AlertHook = no_alerts) -> EngineNode:
    """Return an ML node. Raises SettingsError, EngineArgumentsError or PrivateFileError: the operator's faults."""
    merge_model_args((), settings.model_args)  # a wrong option is the operator's, and is named at once
    return EngineNode(
        NodeId(settings.node_id),
        _endpoint(settings) if settings.url else _environment(settings),
        data_dir,
        settings.model_args,
        drain_seconds=settings.drain_seconds,
        loads_beside=settings.loads_beside,
        on_alert=on_alert,
    )


def hardware_of(settings: EngineSettings) -> str:
    """Return what an ML node runs on, for the chain: as named in the settings, else as found. Blocks."""
    if settings.hardware:
        return settings.hardware
    if settings.api != VLLM_API:
        return TEXT_HARDWARE
    if settings.url:
        return REMOTE_HARDWARE
    return detect_hardware(on_cpu=_environment(settings).on_cpu, gpus=settings.gpus)


def registrations(settings: Sequence[EngineSettings]) -> list[MLNodeRegistration]:
    """Return the ML nodes as they are to stand on chain. Blocks."""
    return [
        MLNodeRegistration(NodeId(engine.node_id), (ModelId(engine.model_id),), hardware_of(engine))
        for engine in settings
    ]


def places_of(settings: EngineSettings) -> int:
    """Return how many requests an ML node serves at once: as the operator says, or as its engine is told."""
    sequences = parse_options(settings.model_args, OPERATOR_OPTIONS, "model_args").get("--max-num-seqs")
    told = sequences.value if sequences is not None else None
    return settings.concurrency or (int(told) if told and told.isdigit() else PLACES_DEFAULT)


def make_loader(
    chain: Chain,
    epochs: EpochBook,
    library: ModelLibrary,
    vault: ModelVault,
    engine: EngineNode,
    wanted: EngineSettings,
) -> ModelLoader:
    """Return what keeps an ML node at what the epoch asks of it."""
    model_id = ModelId(wanted.model_id)
    assignments = EpochAssignments(chain, epochs, engine.node_id, model_id, loads_beside=engine.loads_beside)
    return ModelLoader(chain, library, vault, engine, model_id, assignments)


def default_engine_python() -> Path:
    """Return the Python of the engine environment that scripts/setup made: the GPU's where there is one."""
    root = Path(node.__file__).resolve().parents[1] / ".engine"
    gpu = root / "gpu" / "bin" / "python"
    return gpu if gpu.exists() else root / "cpu" / "bin" / "python"


def _environment(settings: EngineSettings) -> EngineEnvironment:
    environment = EngineEnvironment(settings.python or default_engine_python(), settings.kv_cache_gib, settings.gpus)
    if not environment.python.exists():
        raise SettingsError(
            f"[[engines]] {settings.node_id}: there is no engine environment at {environment.python}: "
            "run scripts/setup, or set python to that of an environment with vLLM, or url to a server elsewhere"
        )
    return environment


def _endpoint(settings: EngineSettings) -> Endpoint:
    return replace(_place(settings), api=settings.api)


def _place(settings: EngineSettings) -> Endpoint:
    if settings.api_key_file is None:
        return parse_endpoint(settings.url)
    lines = read_private_file(settings.api_key_file).decode("utf-8", errors="replace").splitlines()
    key = lines[0].strip() if lines else ""
    if not key or len(key) > API_KEY_CHARACTERS_MAX or not (key.isascii() and key.isprintable()):
        raise SettingsError(f"[[engines]] {settings.node_id}: the first line of {settings.api_key_file} is no key")
    return parse_endpoint(settings.url, key)
