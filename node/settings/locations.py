"""Where a daemon's data lies unless it is told: the same place for quernd, quern and the scripts."""

import os
from pathlib import Path

from node.settings.schema import SETTINGS_FILE_NAME

DATA_DIR_VARIABLE = "QUERN_DATA_DIR"
STATE_DIR_VARIABLE = "XDG_STATE_HOME"


def default_data_dir() -> Path:
    """Return `$QUERN_DATA_DIR`, or `~/.quern`."""
    chosen = os.environ.get(DATA_DIR_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".quern"


def default_settings_file() -> Path:
    """Return the settings file in the default data directory."""
    return default_data_dir() / SETTINGS_FILE_NAME


def account_lock_dir() -> Path:
    """Return the directory of account locks: one for all daemons of this user, whatever their data directories."""
    chosen = os.environ.get(STATE_DIR_VARIABLE)
    return (Path(chosen) if chosen else Path.home() / ".local" / "state") / "quern" / "accounts"
