"""The engine's processes ask for tile registers before vLLM uses them.

On a machine that has some, the tests with a real engine fail without this.
"""

import sys
from importlib.metadata import PathDistribution
from types import SimpleNamespace

import pytest

from node.engine.plugin import DIRECTORY


@pytest.mark.parametrize(
    ("has_tiles", "is_granted", "asked", "believed"),
    [(False, False, 0, False), (True, True, 1, True), (True, False, 1, False)],
)
def test_vllm_believes_in_tile_registers_only_where_the_kernel_grants_them(
    monkeypatch: pytest.MonkeyPatch, has_tiles: bool, is_granted: bool, asked: int, believed: bool
) -> None:
    asks: list[bool] = []

    def ask() -> bool:
        asks.append(is_granted)
        return is_granted

    processor = SimpleNamespace(_is_amx_tile_supported=lambda: has_tiles, _init_amx=ask)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cpu=processor))
    monkeypatch.syspath_prepend(str(DIRECTORY))
    distribution = PathDistribution(DIRECTORY / "quern_sampling-1.dist-info")
    (entry,) = distribution.entry_points.select(group="vllm.general_plugins")
    entry.load()()
    assert len(asks) == asked
    assert processor._is_amx_tile_supported() is believed
