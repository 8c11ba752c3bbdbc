"""The daemon's settings: a TOML file, overridden by environment variables, checked before anything starts."""

from node.settings.loading import SettingsError, load_settings
from node.settings.schema import SETTINGS_FILE_NAME, Settings
from node.settings.sections.node import Role

__all__ = ["SETTINGS_FILE_NAME", "Role", "Settings", "SettingsError", "load_settings"]
