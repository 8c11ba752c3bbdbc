"""vLLM's attention finds no tile registers in the engine's processes.

On a machine that has some, the tests with a real engine fail without this.
"""

import sys
from importlib.metadata import PathDistribution
from types import SimpleNamespace

import pytest

from node.engine.plugin import DIRECTORY


def test_vllm_finds_no_tile_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = SimpleNamespace(_is_amx_tile_supported=lambda: True)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cpu=processor))
    monkeypatch.syspath_prepend(str(DIRECTORY))
    distribution = PathDistribution(DIRECTORY / "quern_sampling-1.dist-info")
    (entry,) = distribution.entry_points.select(group="vllm.general_plugins")
    entry.load()()
    assert processor._is_amx_tile_supported() is False
