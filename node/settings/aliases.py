"""Environment variables of other programs' names that set keys of ours: those that people who run model servers know.

`QUERN_MODELS__…` wins over them, and they win over the settings file. HF_TOKEN is not here: secrets are not settings
(see `node.models.tokens`).
"""

from collections.abc import Mapping, Sequence

ALIASES: dict[str, tuple[str, str]] = {
    "MODEL_STORAGE_DIR": ("models", "storage_dir"),
    "MODEL_REGISTRY_FILE": ("models", "registry_file"),
    "MAX_CONCURRENT_DOWNLOADS": ("models", "max_concurrent_downloads"),
    "DOWNLOAD_TIMEOUT": ("models", "download_timeout_seconds"),
    "VERIFY_CHECKSUMS": ("models", "verify_checksums"),
    "MODEL_API_HOST": ("models", "api_host"),
    "MODEL_API_PORT": ("models", "api_port"),
    "HF_ENDPOINT": ("models", "hub_url"),
    "HF_HUB_CACHE": ("models", "hub_cache_dir"),
}
"""Variable → section and key."""


def aliased_settings(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return what the aliases in `environment` set, as section → key → text. Empty variables count as absent."""
    found: dict[str, dict[str, str]] = {}
    for variable, (section, key) in ALIASES.items():
        if value := environment.get(variable):
            found.setdefault(section, {})[key] = value
    return found


def alias_of(location: Sequence[str]) -> str:
    """Return the variable that sets a key, or an empty text."""
    return next((variable for variable, place in ALIASES.items() if place == tuple(location)), "")
