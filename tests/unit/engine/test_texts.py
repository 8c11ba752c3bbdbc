"""The plug-in of all engines: log-probabilities without texts for who asks for that, and for nobody else."""

import sys
from importlib.metadata import PathDistribution
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from node.engine.drawing import WITHOUT_TEXTS
from node.engine.plugin import COMMON_DIRECTORY


class Processor:
    """As vLLM 0.32 makes them."""

    @classmethod
    def from_new_request(cls, tokenizer: Any, request: Any) -> Any:
        return cls, tokenizer, request


class OtherProcessor:
    """As another vLLM might."""

    @classmethod
    def from_new_request(cls, request: Any) -> Any:
        return request


def install(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.logprobs", module)
    monkeypatch.syspath_prepend(str(COMMON_DIRECTORY))
    distribution = PathDistribution(COMMON_DIRECTORY / "quern_texts-1.dist-info")
    (entry,) = distribution.entry_points.select(group="vllm.general_plugins")
    entry.load()()


def request(extra: dict[str, object] | None) -> Any:
    return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra))


@pytest.mark.parametrize("times", [1, 2])  # it is called in each process, perhaps more than once
def test_who_asks_for_no_texts_gets_none_and_nobody_else(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    known: Any = type("Known", (Processor,), {"from_new_request": Processor.__dict__["from_new_request"]})
    for _ in range(times):
        install(monkeypatch, SimpleNamespace(LogprobsProcessor=known))
    asking = request({**WITHOUT_TEXTS, "quern_winners": "…"})
    assert known.from_new_request(tokenizer="texts", request=asking) == (known, None, asking)
    for other in (request(None), request({}), request({"quern_texts": 1}), request({"quern_texts": None})):
        assert known.from_new_request(tokenizer="texts", request=other) == (known, "texts", other)
        assert known.from_new_request("texts", other) == (known, "texts", other)


@pytest.mark.parametrize("broken", ["another function", "no function", "no class", "no module"])
def test_another_vllm_is_left_as_it_is_and_its_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    before = OtherProcessor.__dict__["from_new_request"]
    modules = {
        "another function": SimpleNamespace(LogprobsProcessor=OtherProcessor),
        "no function": SimpleNamespace(LogprobsProcessor=object),
        "no class": ModuleType("vllm.v1.engine.logprobs"),
        "no module": None,
    }
    install(monkeypatch, modules[broken])
    assert "quern_texts is not offered" in caplog.text
    assert OtherProcessor.__dict__["from_new_request"] is before
