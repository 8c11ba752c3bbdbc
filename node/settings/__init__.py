"""The daemon's settings: a TOML file, overridden by environment variables, checked before anything starts."""

from node.settings.loading import SettingsError, load_settings
from node.settings.schema import (
    SETTINGS_FILE_NAME,
    ApiSettings,
    ChainSettings,
    ContentSettings,
    EngineSettings,
    ModelSettings,
    P2PSettings,
    PaymentSettings,
    Role,
    Settings,
)

__all__ = [
    "SETTINGS_FILE_NAME",
    "ApiSettings",
    "ChainSettings",
    "ContentSettings",
    "EngineSettings",
    "ModelSettings",
    "P2PSettings",
    "PaymentSettings",
    "Role",
    "Settings",
    "SettingsError",
    "load_settings",
]
