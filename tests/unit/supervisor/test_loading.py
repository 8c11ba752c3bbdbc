"""Starting: what is loaded, and that what is loaded is never looked through again for rubbish."""

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from node.collector import YOUNG_OBJECTS_MAX, loading

HEAVY = ("py_ecc", "eth_account", "web3", "torch", "transformers")
"""Libraries of which a daemon needs nothing; each takes a part of a second, or more, to load."""

PYTHON_THRESHOLDS = (700, 10, 10)


@pytest.fixture
def collector() -> Iterator[None]:
    """Python's own settings; after the test those of all tests again (tests/conftest.py)."""
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.unfreeze()
    gc.set_threshold(*PYTHON_THRESHOLDS)
    yield
    if not frozen:
        gc.unfreeze()
    gc.set_threshold(*thresholds)
    gc.enable()


def test_a_daemon_loads_no_library_that_it_does_not_need() -> None:
    code = f"import sys, node.daemon, node.start_errors; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "[]"


def test_settings_are_read_before_the_daemon_is_loaded() -> None:
    code = "import sys, node.process; print('node.daemon' in sys.modules, 'libp2p' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "False False"


@pytest.mark.usefixtures("collector")
def test_nothing_is_collected_while_loading_and_what_was_loaded_never_again() -> None:
    with loading():
        assert not gc.isenabled()
        loaded = [[number] for number in range(1000)]
    assert gc.isenabled()
    assert gc.get_threshold()[0] == YOUNG_OBJECTS_MAX
    assert gc.get_freeze_count() >= len(loaded)


@pytest.mark.usefixtures("collector")
def test_collection_goes_on_after_a_load_that_fails() -> None:
    with pytest.raises(ImportError), loading():
        raise ImportError
    assert gc.isenabled()


def test_parts_of_libp2p_that_are_not_used_are_left_out_and_say_so() -> None:
    code = """
import sys
from p2p.repairs.unused import left_out
with left_out():
    import node.daemon, node.start_errors
from libp2p.transport.quic.transport import QUICTransport
assert not isinstance(object(), QUICTransport)
assert not [name for name in ("aioquic", "trio_websocket", "httpx2") if name in sys.modules]
try:
    QUICTransport()
except RuntimeError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "is not loaded" in found.stdout
