"""Parts of libp2p that a daemon never uses: QUIC, WebSocket, AutoTLS. They take a fifth of a second and 10 MiB to load.

The library loads all of itself with its first module. While a process loads, empty stand-ins can take the place of
these parts: names in them are classes that nothing is an instance of and nobody can make one of.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import dns._features

UNUSED = (
    "libp2p.transport.quic",
    "libp2p.transport.websocket",
    "libp2p.security.tls.autotls.acme",
    "libp2p.security.tls.autotls.broker",
)
"""Modules, with all below them."""
UNUSED_DNS_FEATURES = ("doh", "doq")
"""libp2p loads a resolver of names, and that HTTP and QUIC if they are installed. Names are resolved by the system."""


class _NotLoadedError(Exception):
    """In place of a class or function. An exception, for some of them are: `except` takes nothing else."""

    def __init__(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(f"{type(self).__module__}.{type(self).__name__} is not loaded: see p2p/repairs/unused.py")


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (_NotLoadedError,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in UNUSED):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


@contextmanager
def left_out() -> Iterator[None]:
    """Within this context, load stand-ins for what is not used, unless the real ones are loaded already."""
    for feature in UNUSED_DNS_FEATURES:
        dns._features.force(feature, False)
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
