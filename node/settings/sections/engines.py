"""`[[engines]]`: the ML nodes."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from node.settings.section import Section
from node.settings.value_types import ServerPlace


class EngineSettings(Section):
    """One ML node: an engine that serves one model."""

    node_id: str = Field(pattern=r"^[a-z0-9._-]{1,32}$", description="Name of the ML node, unique in this file.")
    model_id: str = Field(
        pattern=r"^[a-z0-9._/-]{1,64}$", description="Model to serve, by its id in the ModelRegistry."
    )
    hardware: str = Field(
        default="",
        max_length=128,
        description="What it runs on, as shown on chain, e.g. `1x H200`; without it, what is found.",
    )
    url: ServerPlace = Field(
        default="",
        description="A vLLM server that you start yourself, on this or another machine: http://host:port, or\n"
        "unix:/path/of/socket. Without it the daemon starts one.",
    )
    api: Literal["vllm", "openai", "miner"] = Field(
        default="vllm",
        description="What the server at url speaks. `openai` (chats) and `miner` (POST /api/chat) are for servers\n"
        "that tell no token ids: they serve callers of this node and private networks, but prove no work.\n"
        "`quern conformance` says which it is.",
    )
    api_key_file: Path | None = Field(
        default=None, description="File (0600) with the key that the server at `url` asks for (vllm serve --api-key)."
    )
    drain_seconds: float = Field(
        default=60,
        ge=0,
        le=3600,
        description="How long running requests may go on when the node is drained, switched to another model or the\n"
        "daemon stops.",
    )
    loads_beside: bool = Field(
        default=False,
        description="Load the next version of a model while the old one serves. Needs memory for both; without it\n"
        "the node serves nothing while it loads.",
    )
    model_args: list[str] = Field(
        default=[],
        description="Further vLLM arguments; those of the registry win where both name the same option.",
    )
    concurrency: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Requests it serves at once; more wait in line. Without it, `--max-num-seqs` of model_args, or 64.",
    )
    gpus: str = Field(
        default="",
        pattern=r"^(\d{1,3}(,\d{1,3}){0,63})?$",
        description="GPUs of this machine that it uses, by number, e.g. `0` or `2,3`; without it, all. With several\n"
        "[[engines]] on one machine give each its own.",
    )
    kv_cache_gib: int = Field(
        default=1, ge=1, le=1024, description="Memory for the key-value cache on a CPU, in GiB; GPUs take what is free."
    )
    python: Path | None = Field(
        default=None,
        description="Python of the engine's environment; without it, .engine/gpu or .engine/cpu of the project.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.url:
            named = [name for name in ("model_args", "python", "gpus", "loads_beside") if getattr(self, name)]
            if named:
                raise ValueError(f"{', '.join(named)}: the server at url has these where it is started; leave them out")
        elif self.api_key_file is not None:
            raise ValueError("api_key_file: only a server at url has a key")
        elif self.api != "vllm":
            raise ValueError(f"api: {self.api} is for a server at url; the daemon itself starts vLLM only")
        return self
