"""How a fetch shares its connections among gateways: no more threads than cores, but one for each gateway."""

import pytest

from p2p.content import gateway_source
from p2p.content.gateway_source import CONNECTIONS_MAX, connections_each


@pytest.mark.parametrize(
    ("cores", "gateways", "each"), [(3, 1, 3), (3, 2, 1), (3, 3, 1), (16, 3, 3), (16, 8, 2), (3, 64, 1)]
)
def test_threads_stay_within_cores_while_each_gateway_has_one(
    monkeypatch: pytest.MonkeyPatch, cores: int, gateways: int, each: int
) -> None:
    monkeypatch.setattr(gateway_source, "THREADS_MAX", cores)
    assert connections_each(gateways) == each


def test_one_gateway_has_all_and_none_is_no_error() -> None:
    assert connections_each(1) == connections_each(0) == CONNECTIONS_MAX
