"""A gateway that others can reach is not open by oversight, and a fault of ours is told as one."""

from pathlib import Path

import httpx
import pytest

from node.api.keys import KeyLimits, add_api_key
from node.openai_wiring import open_gatekeeper
from node.settings import Settings, SettingsError
from node.settings.sections.api import ApiSettings
from node.settings.sections.node import NodeSettings, Role
from node.store.database import Database
from tests.unit.api.canned_gateway import NOW, served
from tests.unit.api.test_openai_hostile import BODY
from tests.unit.services.serving_network import GATEWAY, serving_network


def settings(tmp_path: Path, *, role: Role = Role.GATEWAY, **api: object) -> Settings:
    values = {"keys_file": tmp_path / "api.keys", **api}
    return Settings.model_construct(node=NodeSettings(roles=[role]), api=ApiSettings.model_validate(values))


async def test_others_are_let_in_only_by_keys_or_if_the_settings_say_so(tmp_path: Path, autojump_clock: object) -> None:
    async with serving_network(0) as network:
        chain = network.members[GATEWAY].chain

        def open_with(wanted: Settings) -> None:
            open_gatekeeper(wanted, chain, Database(":memory:"), lambda: NOW)

        with pytest.raises(SettingsError, match="quern keys add"):
            open_with(settings(tmp_path, host="0.0.0.0"))
        open_with(settings(tmp_path, host="127.0.0.1"))
        open_with(settings(tmp_path, host="0.0.0.0", open=True))
        open_with(settings(tmp_path, host="0.0.0.0", role=Role.MINER))  # its own API asks for keys itself
        add_api_key(tmp_path / "api.keys", "alice", KeyLimits(), at=NOW)
        open_with(settings(tmp_path, host="0.0.0.0"))


async def test_a_fault_of_ours_is_a_500_in_openai_s_shape() -> None:
    async with served() as face, httpx.AsyncClient() as client:
        face.gateway.fail_at_once = RuntimeError("what a user wrote")  # type: ignore[assignment]
        reply = await client.post(f"{face.url}/chat/completions", json=BODY)
        assert reply.status_code == 500
        assert reply.json()["error"]["code"] == "internal_error"
        assert "a user wrote" not in reply.text


async def test_a_connection_serves_on_after_a_refusal(tmp_path: Path) -> None:
    add_api_key(tmp_path / "keys", "alice", KeyLimits(), at=NOW)
    async with served(tmp_path / "keys") as face, httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(20):
            reply = await client.post(f"{face.url}/chat/completions", json={**BODY, "user": "x" * 100_000})
            assert reply.status_code == 401
