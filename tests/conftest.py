"""What holds for all tests."""

from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from node.collector import loading

# How fast a machine makes examples says nothing about the code: no timing passes or fails a test here.
settings.register_profile("quern", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quern")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """As a daemon does, look for no rubbish while loading, nor ever in what was loaded."""
    with loading():
        return (yield)
