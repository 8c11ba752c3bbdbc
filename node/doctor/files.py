"""Checks of what lies on this machine: settings, data directory, keys, disk. They need neither daemon nor network."""

import os
import shutil
import stat
from pathlib import Path

from node.doctor.findings import Finding, fault, ok, warning
from node.keys import KeyFileError, keystore_account, load_peer_seed, read_passphrase_file
from node.private_files import exposed_mode
from node.settings import Role, Settings, SettingsError, load_settings

DISK_BYTES_FAULT = 1 * 1024**3
"""With less the books themselves may fail to be written."""
DISK_BYTES_WARNING = 10 * 1024**3
"""With less the next version of a model may not fit, where `[models] bytes_max` does not say how much they may take."""
GIB = 1024**3


def check_settings(path: Path) -> tuple[Finding, Settings | None]:
    """Check that the settings can be used, and return them."""
    try:
        settings = load_settings(path)
    except SettingsError as error:
        return fault("settings", str(error), f"Correct {path}; `quern init` writes a new one."), None
    if settings.has_role(Role.MINER) and not settings.engines:
        message = f"{path}: the role is miner, but there is no [[engines]] table"
        return warning("settings", message, "Add an ML node, or take `miner` out of [node] roles."), settings
    return ok("settings", f"{path} is valid"), settings


def check_files(settings: Settings) -> list[Finding]:
    """Check the data directory, the keys and the disk."""
    return [
        check_data_directory(settings.node.data_dir),
        check_disk(settings.node.data_dir, models_bytes_max=settings.models.bytes_max),
        check_peer_key(settings.p2p.key),
        check_keystore(settings.account.keystore),
        *([check_passphrase_file(settings.account.passphrase_file)] if settings.account.passphrase_file else []),
    ]


def check_data_directory(path: Path) -> Finding:
    """The data directory is there, can be written, and is closed to others."""
    name = "data directory"
    if not path.is_dir():
        return fault(name, f"{path} is not a directory", f"Run `quern init --data-dir {path}`.")
    if not os.access(path, os.W_OK | os.X_OK):
        return fault(name, f"{path} can't be written by this user", "Run as its owner, or correct its permissions.")
    mode = path.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return warning(name, f"{path} can be written by other users", _how_to_close(path, "the data directory"))
    return ok(name, f"{path} can be written")


def check_disk(path: Path, *, models_bytes_max: int) -> Finding:
    """There is room for the books and for the models that this node may hold (in bytes; 0 is without a limit)."""
    name = "disk space"
    existing = next(place for place in (path, *path.parents) if place.exists())
    free = shutil.disk_usage(existing).free
    message = f"{free / GIB:.1f} GiB free at {existing}"
    if free < DISK_BYTES_FAULT:
        return fault(name, message, "Free some space: without it the daemon can't keep its books.")
    wanted = min(models_bytes_max or DISK_BYTES_WARNING, DISK_BYTES_WARNING)
    if free < wanted:
        return warning(name, message, "Free some space: the next model may not fit.")
    return ok(name, message)


def check_peer_key(path: Path) -> Finding:
    """The libp2p key can be read, by its owner alone."""
    try:
        load_peer_seed(path)
    except KeyFileError as error:
        return fault("peer key", str(error), "Restore it from a backup; `quern init` makes a new one if it is lost.")
    return ok("peer key", f"{path} is private")


def check_keystore(path: Path) -> Finding:
    """The keystore is one, and is private."""
    name = "account key"
    try:
        account = keystore_account(path)
    except KeyFileError as error:
        return fault(name, str(error), "Restore it from a backup; without it nothing can be earned or claimed.")
    return ok(name, f"{path} holds {account}, encrypted")


def check_passphrase_file(path: Path) -> Finding:
    """The passphrase file can be read, by its owner alone."""
    try:
        read_passphrase_file(path)
    except KeyFileError as error:
        return fault("passphrase file", str(error), "Put the passphrase of the keystore into its first line.")
    if exposed_mode(path.parent.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        return warning("passphrase file", f"others can write into {path.parent}", _how_to_close(path.parent, "it"))
    return ok("passphrase file", f"{path} is private")


def _how_to_close(directory: Path, what: str) -> str:
    """A directory like /tmp is for everybody: its permissions are not to be changed."""
    if directory.stat().st_mode & stat.S_ISVTX:
        return f"Move {what} to a directory of your own: {directory} is shared by all users of this machine."
    return f"Run: chmod go-w {directory}"
