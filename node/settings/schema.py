"""Every key of the settings, with its type, limits, default and the description that `quern init` writes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import multiaddr
from eth_utils.address import is_address, to_checksum_address
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from node.alerts.kinds import AlertKind
from node.amounts import tokens_to_amount
from node.engine.endpoint import parse_endpoint
from node.protocol.hosts import is_host

ENVIRONMENT_PREFIX = "QUERN_"
ENVIRONMENT_DELIMITER = "__"
SETTINGS_FILE_NAME = "quern.toml"


class Role(StrEnum):
    """What a daemon does for the network; several may be combined."""

    MINER = "miner"
    GATEWAY = "gateway"
    SEEDER = "seeder"
    RELAY = "relay"


def _check_tokens(text: str) -> str:
    tokens_to_amount(text)
    return text


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected a URL such as http://127.0.0.1:8545, got {url!r}")
    return url


def _check_multiaddr(text: str) -> str:
    try:
        multiaddr.Multiaddr(text)
    except Exception as error:  # the library has no common base of its errors
        raise ValueError(f"expected a multiaddress such as /ip4/127.0.0.1/tcp/4801, got {text!r}: {error}") from error
    return text


def _check_account(text: str) -> str:
    if not is_address(text):
        raise ValueError(f"expected an account such as 0x and 40 hex digits, got {text!r}")
    return to_checksum_address(text)


def _check_place(text: str) -> str:
    if text:
        parse_endpoint(text)
    return text


def _check_host(text: str) -> str:
    if text and not is_host(text):
        raise ValueError(f"expected an IP address or a host's name in ASCII, got {text!r}: peers refuse others")
    return text


Tokens = Annotated[str, AfterValidator(_check_tokens)]
Account = Annotated[str, AfterValidator(_check_account)]
Url = Annotated[str, AfterValidator(_check_url)]
OptionalUrl = Annotated[str, AfterValidator(lambda url: _check_url(url) if url else url)]
Multiaddress = Annotated[str, AfterValidator(_check_multiaddr)]
OptionalMultiaddress = Annotated[str, AfterValidator(lambda text: _check_multiaddr(text) if text else text)]
ServerPlace = Annotated[str, AfterValidator(_check_place)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """A section of the file: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NodeSettings(Section):
    """What this daemon is and where it keeps its data."""

    data_dir: Path = Field(
        default=Path(), description="Directory of keys, books and content; `.` is where this file lies."
    )
    roles: list[Role] = Field(
        default=[Role.MINER, Role.GATEWAY, Role.SEEDER],
        description="What this daemon does: `miner` serves and proves models, `gateway` takes requests of users,\n"
        "`seeder` gives content to peers (a miner always does), `relay` carries connections to peers behind NAT.",
    )
    vectors_kept_bytes_max: int = Field(
        default=4 << 30,
        ge=1 << 26,
        description="Disk for what auditors may ask of vectors that this node gave, in bytes. When it is full, no\n"
        "more are given until some are not due any more: 2.5 KB for each text of 400 tokens of the newest epochs,\n"
        "so 1.6 million such texts.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`debug` also writes the tracebacks of errors."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="`console` for people, `json` for machines."
    )
    log_file: Path | None = Field(default=None, description="Write the log here; without it, to standard error.")


class ChainSettings(Section):
    """The EVM chain on which the network settles."""

    rpc_urls: list[Url] = Field(
        default=["http://127.0.0.1:8545"], min_length=1, description="JSON-RPC endpoints, the preferred one first."
    )
    chain_id: int = Field(
        default=31337, ge=1, description="EIP-155 chain id; the daemon refuses to run on any other chain."
    )
    deployment: Path = Field(
        default=Path("deployment.json"),
        description="The network's deployment file: contract addresses, from its deployer.",
    )
    confirmations: int = Field(
        default=2,
        ge=0,
        le=1000,
        description="Blocks on top of a block before the daemon acts on it. Too few and a reorganisation costs you\n"
        "work; too many and you miss the windows of an epoch.",
    )
    finality: Literal["confirmations", "finalized"] = Field(
        default="confirmations",
        description="When a block counts: `confirmations` by the number above, `finalized` when the chain itself\n"
        "calls it final (safest; on Ethereum some 15 minutes, too long for short epochs).",
    )
    poll_seconds: float = Field(default=1.0, gt=0, le=60, description="How often to ask for a new block.")
    max_fee_gwei: int = Field(
        default=500,
        ge=1,
        le=100_000,
        description="Most to pay per gas, in units of 10^-9 of the gas coin. When the chain asks more, transactions\n"
        "wait; what an epoch has deadlines for is then lost.",
    )
    gas_reserve_ether: Tokens = Field(
        default="0.05", description="Warn when the account holds less of the gas coin than this."
    )


class AccountSettings(Section):
    """The Ethereum account of this participant: it stakes, pays, earns and signs."""

    keystore: Path = Field(default=Path("account.json"), description="Encrypted key (Ethereum keystore v3).")
    passphrase_file: Path | None = Field(
        default=None, description="File whose first line unlocks the keystore; must be readable by you alone (0600)."
    )
    passphrase_env: str | None = Field(
        default="QUERN_PASSPHRASE",
        description="Environment variable that unlocks the keystore where no passphrase file is set. Without either\n"
        "the daemon asks at the terminal.",
    )


class P2PSettings(Section):
    """The libp2p host that gossips and carries requests."""

    key: Path = Field(default=Path("peer.key"), description="Ed25519 key that is this node's peer id.")
    listen: list[Multiaddress] = Field(
        default=["/ip4/0.0.0.0/tcp/4801"], min_length=1, description="Where to listen; port 0 takes a free one."
    )
    announce: list[Multiaddress] = Field(
        default=[], description="Addresses to tell peers, where they differ from the listening ones (NAT, proxies)."
    )
    bootstrap: list[Multiaddress] = Field(default=[], description="Peers to join through: /ip4/…/tcp/…/p2p/12D3Koo…")
    dht: Literal["auto", "server", "client", "off"] = Field(
        default="auto",
        description="Part in the DHT, by which peers and content are found: `server` answers others, `client` only\n"
        "asks, `auto` answers unless peers find that this node cannot be dialled.",
    )
    dht_protocol: str | None = Field(
        default=None,
        pattern=r"^/[!-~]{1,127}$",
        description="Protocol of the DHT; without it, one of this network. /ipfs/kad/1.0.0 joins the public IPFS.",
    )
    mdns: bool = Field(
        default=True, description="Find nodes on the local network; never done where all listening is on loopback."
    )
    relay: bool = Field(
        default=True,
        description='Be reached through relays while nobody gets through directly. Being one is the role "relay".',
    )
    autonat: bool = Field(default=True, description="Have peers try to dial this node, to know whether they can.")
    upnp: bool = Field(
        default=False,
        description="Ask the router to forward the listening port. Off, because it opens a way into your network.",
    )
    hole_punching: bool = Field(
        default=True, description="Turn connections through relays into direct ones where routers allow it."
    )


class ContentSettings(Section):
    """The content gateway from which peers fetch models and proofs by CID."""

    host: str = Field(default="0.0.0.0", description="Address to listen on.")  # noqa: S104 - peers must reach it
    port: Port = Field(default=4802, description="Port to listen on; 0 takes a free one.")
    announce_host: Annotated[str, AfterValidator(_check_host)] | None = Field(
        default=None, description="Host to tell peers; without it, the first announced or listening address of [p2p]."
    )
    cache_bytes_max: int = Field(
        default=0,
        ge=0,
        description="Disk that content may take, in bytes; 0 leaves it to the disk. Pinned content stays.",
    )
    token_file: Path | None = Field(
        default=None,
        description="File (0600) with a token that whoever fetches from here must send; without it, all may.",
    )
    provider_tokens_file: Path | None = Field(
        default=None,
        description="File (0600) with the tokens that other gateways ask for, each line `host:port token`.",
    )
    upload_bytes_per_second: int = Field(
        default=0, ge=0, description="What the gateway sends at most, to all together; 0 is no limit."
    )
    download_bytes_per_second: int = Field(
        default=0, ge=0, description="What is fetched from peers at most; 0 is no limit."
    )
    connections_max: int = Field(default=256, ge=1, description="Connections that the gateway serves at once.")
    connections_per_address_max: int = Field(default=32, ge=1, description="Those from one address (IPv6: /64).")
    requests_per_second: int = Field(
        default=0, ge=0, description="Requests that one address may make; 0 is no limit. A block is one request."
    )
    bitswap: bool = Field(
        default=True,
        description="Exchange blocks with IPFS peers over Bitswap too. Slow: daemons' gateways come first.",
    )
    web_gateways: list[Url] = Field(
        default=[],
        max_length=8,
        description="Public IPFS gateways to ask for what nobody else has, e.g. https://trustless-gateway.link; they\n"
        "learn what you fetch. Every block is verified.",
    )
    kubo_api: OptionalMultiaddress = Field(
        default="",
        description="RPC address of your own Kubo, e.g. /ip4/127.0.0.1/tcp/5001, to fetch from and publish to.",
    )


class VaultSettings(Section):
    """Encrypted models and their keys."""

    keys_dir: Path = Field(
        default=Path("model-keys"),
        description="Directory of content keys, one private file each. Back it up: a lost key is a lost model.",
    )
    unsealed_dir: Path = Field(
        default=Path("unsealed"),
        description="Directory where encrypted models lie decrypted while they are served; others must not read it.\n"
        "On a file system in memory, such as below /dev/shm, nothing of them reaches a disk.",
    )


class ApiSettings(Section):
    """The HTTP face for users: the OpenAI API and the miner API."""

    host: str = Field(
        default="127.0.0.1", description="Address to listen on; anything but loopback serves the whole net."
    )
    port: Port = Field(default=8080, description="Port to listen on; 0 takes a free one.")
    keys_file: Path = Field(
        default=Path("api.keys"),
        description="API keys of users, with their budgets (0600; `quern keys add` writes it). While there is none,\n"
        "whoever reaches the API spends this gateway's tokens; anywhere but on loopback it then refuses to start.",
    )
    open: bool = Field(
        default=False, description="Serve without keys on addresses other than loopback; whoever comes spends."
    )
    cors_origins: list[str] = Field(
        default=[],
        max_length=32,
        description="Web pages that may ask, e.g. https://chat.example; `*` is all. Pages from elsewhere are refused:\n"
        "without that, any page open in a browser on this machine could spend this gateway's tokens.",
    )
    cache_bytes_max: int = Field(
        default=0,
        ge=0,
        description="Memory for answers that are given again to equal requests, in bytes; 0 is off. Only what the\n"
        "request alone decides is kept: temperature 0, or a seed given. Users can tell by the time whether another\n"
        "one asked the same before.",
    )


class MetricsSettings(Section):
    """Metrics for Prometheus, at /metrics."""

    enabled: bool = Field(default=True, description="Whether they are served.")
    host: str = Field(
        default="127.0.0.1", description="Address to listen on. They tell earnings and peers: keep them to yourself."
    )
    port: Port = Field(
        default=9464,
        description="Port to listen on; 0 takes a free one. If another program has it, there are no metrics, and the\n"
        "log says so.",
    )


class AlertSettings(Section):
    """What the operator is told of at once, over a webhook. `quern alerts test` tries it."""

    webhook_url: OptionalUrl = Field(
        default="",
        description="Where to post alerts as JSON: your own program, or an incoming webhook of Slack or Discord.\n"
        "Without it they are only in the log and in `quern alerts list`.",
    )
    secret_file: Path | None = Field(
        default=None,
        description="File (0600) with a secret by which each post is signed (HMAC-SHA256): proof that it is ours.",
    )
    kinds: list[AlertKind] = Field(default=list(AlertKind), description="Which kinds are posted.")
    min_interval_seconds: int = Field(
        default=3600, ge=60, le=7 * 86400, description="How often the same trouble is posted again while it lasts."
    )
    chain_silent_seconds_max: int = Field(
        default=120, ge=10, le=86400, description="How long no block may come before that is trouble."
    )
    disk_free_gib_min: int = Field(default=10, ge=1, le=100_000, description="Less free disk than this is trouble.")


class ControlSettings(Section):
    """The Unix socket through which `quern` speaks to the daemon."""

    socket: Path = Field(default=Path("control.sock"), description="Path of the socket; only you can open it (0600).")


class ParticipantSettings(Section):
    """What the daemon may do on chain in your name without asking."""

    register_on_start: bool = Field(
        default=True,
        description="Register this account, its peer id and its ML nodes, and keep them equal to this file.\n"
        "Costs gas whenever something changed.",
    )
    claim_rewards: bool = Field(default=True, description="Claim reward coins after each epoch; costs gas.")
    redeem_vouchers: bool = Field(default=True, description="Redeem the vouchers users paid with; costs gas.")
    scale_preserved_weight: bool = Field(
        default=False,
        description="Vote that nodes which keep serving through Proof of Compute keep only as much weight as the\n"
        "tokens they served stand for. Holds in epochs in which more than two thirds of the weight vote so.",
    )


class PaymentSettings(Section):
    """How this daemon pays as a gateway, and how far it trusts payers as an executor."""

    channel_deposit: Tokens = Field(default="10", description="Tokens to put into a payment channel when it is opened.")
    budget: Tokens = Field(default="100", description="Tokens that this gateway may put into channels altogether.")
    unpaid_tokens_max: int = Field(
        default=64,
        ge=1,
        description="Output tokens an executor gives beyond what vouchers paid for: what a payer can steal at most.",
    )
    free: bool = Field(
        default=False,
        description="Serve free of charge, for a private network: no vouchers are asked for, nor taken.",
    )
    free_accounts: list[Account] = Field(
        default=[],
        max_length=1024,
        description="Accounts that are served free of charge; empty: everyone. Others are refused.",
    )
    answers_kept_max: int = Field(
        default=1000,
        ge=0,
        le=1_000_000,
        description="Prompts and answers of this gateway's users to keep, the newest, so that their receipts can be\n"
        "checked to the token (`quern verify`). They lie unencrypted in the store; 0 keeps none, forgets those kept.",
    )
    private_answers_kept_seconds: int = Field(
        default=3600,
        ge=0,
        le=86_400,
        description="How long the tokens of private prompts and answers stay in memory, and nowhere else, so that\n"
        "`quern audit --challenge` can have an answer judged; the newest 256, 32 MiB. 0: not at all.",
    )
    decoys_per_day: int = Field(
        default=4,
        ge=0,
        le=1000,
        description="Questions that nobody wants answered, asked on average in a day, at random times, shaped like\n"
        "users' and paid out of the budget: this daemon audits the answers with an engine of its own. None are asked\n"
        "while no channel has a deposit, no engine has a model or the account has no weight. 0: none.",
    )
    decoys_cost_per_day_max: Tokens = Field(
        default="0.1", description="What decoys may cost in a day, in tokens: beyond it, none begins."
    )
    redeem_at_risk: Tokens = Field(
        default="100",
        description="What one payer may owe you in vouchers, in tokens; more is redeemed at once. Else vouchers are\n"
        "redeemed at the end of each epoch, and at once where a payer announces that it takes its deposit back.",
    )
    redeem_at_least: Tokens = Field(default="0", description="Smaller amounts wait until there is more, in tokens.")
    redeem_gas_high_percent: int = Field(
        default=150, ge=100, description="Wait while gas costs more than this part of what is usual (percent)."
    )
    redeem_wait_epochs_max: int = Field(
        default=4, ge=0, description="Epochs after which high gas prices are not waited for any longer."
    )
    redeem_coin_worth: Tokens = Field(
        default="0",
        description="What one coin of gas (10^18 wei) is worth in tokens. 0: not known; with it, nothing is redeemed\n"
        "that would cost more gas than it brings.",
    )
    redeem_cost_percent_max: int = Field(
        default=10,
        ge=1,
        le=100,
        description="Of an amount, what its redemption may cost (percent); only with redeem_coin_worth.",
    )


class MiningSettings(Section):
    """Proof of Compute."""

    nonces_max: int = Field(
        default=4096,
        ge=1,
        le=2**20,
        description="Nonces to compute per ML node and epoch at most; each counts towards your weight.",
    )


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


class ModelSettings(Section):
    """Models on this machine: where they lie, how they are downloaded, and the API that manages them."""

    storage_dir: Path = Field(default=Path("models"), description="Directory of models. A miner needs it to be fast.")
    cold_dir: Path | None = Field(
        default=None, description="Directory on a slower disk, to which models move that nobody uses."
    )
    cold_after_days: int = Field(default=30, ge=1, le=3650, description="How long a model is unused before it moves.")
    registry_file: Path | None = Field(
        default=None, description="File that always holds the list of models as JSON, for other programs."
    )
    bytes_max: int = Field(
        default=0,
        ge=0,
        description="Disk that models may take, in bytes; 0 leaves it to the disk. The longest unused give way, but\n"
        "never one that is pinned or loaded.",
    )
    max_concurrent_downloads: int = Field(
        default=3, ge=1, le=32, description="Downloads at once; those that engines wait for do not count."
    )
    download_timeout_seconds: int = Field(
        default=3600,
        ge=10,
        le=7 * 86400,
        description="Longest time of one try of a download; the next one goes on where it stopped.",
    )
    bandwidth_bytes_per_second_max: int = Field(
        default=0, ge=0, description="Limit of downloads from the Hub and web servers together; 0 is none."
    )
    verify_checksums: bool = Field(
        default=True, description="Compare each file with its source's checksum. What peers give is always checked."
    )
    private_addresses_allowed: bool = Field(
        default=False, description="Whether downloads by URL may reach this machine and its local network."
    )
    hub_url: Url = Field(default="https://huggingface.co", description="The Hugging Face Hub, or a mirror of it.")
    hub_token_file: Path = Field(
        default=Path("hub.token"),
        description="File with the Hub token, for gated models (0600; `quern model login` writes it).",
    )
    hub_cache_dir: Path | None = Field(
        default=None, description="Cache of huggingface_hub whose files are copied instead of downloaded."
    )
    api_host: str = Field(default="127.0.0.1", description="Address on which the management API listens.")
    api_port: Port = Field(default=8005, description="Its port; 0 takes a free one.")
    api_tokens_file: Path = Field(
        default=Path("model-api.tokens"),
        description="Tokens of the management API (0600; `quern model token add` writes it). While there is none,\n"
        "the API is off.",
    )


class Settings(BaseSettings):
    """All settings of one daemon."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter=ENVIRONMENT_DELIMITER,
    )

    node: NodeSettings = NodeSettings()
    chain: ChainSettings = ChainSettings()
    account: AccountSettings = AccountSettings()
    p2p: P2PSettings = P2PSettings()
    content: ContentSettings = ContentSettings()
    vault: VaultSettings = VaultSettings()
    api: ApiSettings = ApiSettings()
    metrics: MetricsSettings = MetricsSettings()
    alerts: AlertSettings = AlertSettings()
    control: ControlSettings = ControlSettings()
    models: ModelSettings = ModelSettings()
    participant: ParticipantSettings = ParticipantSettings()
    payments: PaymentSettings = PaymentSettings()
    mining: MiningSettings = MiningSettings()
    engines: list[EngineSettings] = Field(
        default=[], max_length=64, description="One [[engines]] table per ML node; a miner needs at least one."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [engine.node_id for engine in self.engines]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"engines: node_id {', '.join(twice)} is used twice; give each ML node its own name")
        return self

    def has_role(self, role: Role) -> bool:
        """Whether this daemon has `role`."""
        return role in self.node.roles
