"""The settings as a whole: which tables there are, in the order in which `quern init` writes them."""

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from node.settings.sections.account import AccountSettings
from node.settings.sections.alerts import AlertSettings
from node.settings.sections.api import ApiSettings
from node.settings.sections.chain import ChainSettings
from node.settings.sections.content import ContentSettings
from node.settings.sections.control import ControlSettings
from node.settings.sections.engines import EngineSettings
from node.settings.sections.metrics import MetricsSettings
from node.settings.sections.mining import MiningSettings
from node.settings.sections.models import ModelSettings
from node.settings.sections.node import NodeSettings, Role
from node.settings.sections.p2p import P2PSettings
from node.settings.sections.participant import ParticipantSettings
from node.settings.sections.payments import PaymentSettings
from node.settings.sections.vault import VaultSettings

ENVIRONMENT_PREFIX = "QUERN_"
ENVIRONMENT_DELIMITER = "__"
SETTINGS_FILE_NAME = "quern.toml"


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
