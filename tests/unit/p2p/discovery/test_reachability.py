"""What several peers' attempts to dial back say together."""

import pytest

from p2p.discovery.announced import Reachability
from p2p.discovery.reachability import judge

UNKNOWN, PUBLIC, PRIVATE = Reachability.UNKNOWN, Reachability.PUBLIC, Reachability.PRIVATE


@pytest.mark.parametrize(
    ("successes", "failures", "previous", "expected"),
    [
        (0, 0, UNKNOWN, UNKNOWN),
        (1, 0, UNKNOWN, UNKNOWN),
        (2, 0, UNKNOWN, PUBLIC),
        (0, 2, UNKNOWN, PRIVATE),
        (2, 1, UNKNOWN, UNKNOWN),
        (3, 1, PRIVATE, PUBLIC),
        (1, 3, PUBLIC, PRIVATE),
        (2, 1, PUBLIC, PUBLIC),
    ],
)
def test_one_peer_alone_decides_nothing(
    successes: int, failures: int, previous: Reachability, expected: Reachability
) -> None:
    assert judge(successes, failures, previous) is expected
