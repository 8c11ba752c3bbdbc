"""What tests with real engines share."""

from collections.abc import Iterator

import pytest

from tests.integration.engine.shared import SharedServer, run_shared_server


@pytest.fixture(scope="package")
def shared_server() -> Iterator[SharedServer]:
    """A server with the tiny model; it ends when the tests of this folder are over."""
    with run_shared_server() as server:
        yield server
