"""A development chain leaves nothing behind."""

from pathlib import Path

import httpx
import pytest

from node.chain.devnet import development_account, find_anvil, run_anvil
from node.chain.rpc import JsonRpc

ROOT = Path(__file__).resolve().parents[3]
BLOCKS = 600
"""More than anvil keeps in memory."""

pytestmark = pytest.mark.chain


async def test_states_of_old_blocks_are_kept_and_go_with_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with (
        run_anvil(find_anvil(ROOT), block_seconds=None, log_path=tmp_path / "anvil.log") as chain,
        httpx.AsyncClient() as client,
    ):
        rpc = JsonRpc([chain.url], client)
        await rpc.call("anvil_mine", hex(BLOCKS))
        assert int(await rpc.call("eth_getBalance", development_account(0).address, hex(1)), 16) > 0
        (states,) = tmp_path.glob("quern-anvil-*")
        assert any(path.is_file() for path in states.rglob("*"))
    assert list(tmp_path.iterdir()) == [tmp_path / "anvil.log"]
