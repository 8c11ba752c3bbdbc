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
    """As a daemon does, never look through what was loaded for rubbish: a fifth of the processor time of unit tests."""
    with loading():
        return (yield)
