"""The version of the installed package."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return Quern's version, or `unknown` when it runs from a source tree that was never installed."""
    try:
        return version("quern")
    except PackageNotFoundError:
        return "unknown"
