"""`quern model` and the management API against a daemon that runs, dies and runs again; its token stays secret."""

import json
import subprocess
from pathlib import Path

import httpx
import pytest
import trio

from scripts.local_network import free_ports
from tests.hub_stand_in import HubStandIn, hub_stand_in, repository
from tests.integration.daemon import test_daemon
from tests.integration.daemon.test_daemon import Place, fund, place

pytestmark = [pytest.mark.chain, pytest.mark.timeout(180)]
TOKEN = "hf_only_the_hub_may_see_this"
FILES = {"config.json": b"{}", "model.safetensors": b"numbers" * 100_000}


async def start(here: Place, hub: HubStandIn, api_port: int) -> trio.Process:
    """Start a daemon and wait until it answers."""
    environment = {"PATH": "/usr/bin:/bin", "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "MODEL_API_PORT": str(api_port)}
    process = await trio.lowlevel.open_process(
        [str(test_daemon.QUERND), "--config", str(here.config)],
        stdin=subprocess.DEVNULL, stderr=(here.directory / "log").open("ab"), env=environment,
    )  # fmt: skip
    with trio.fail_after(60):
        while (await here.quern("model", "list")).returncode != 0:
            assert process.poll() is None, (here.directory / "log").read_text()
            await trio.sleep(0.2)
    return process


async def test_models_outlive_the_daemon_and_its_token_is_seen_by_the_hub_only(tmp_path: Path) -> None:
    with hub_stand_in() as hub:
        hub.repositories["owner/model"] = repository(
            FILES, lfs=frozenset({"model.safetensors"}), gated=True, readers=frozenset({TOKEN})
        )
        async with place(tmp_path) as here:
            await fund(here)
            made = await here.quern("model", "token", "add", "dashboard", "--role", "admin")
            assert made.returncode == 0, made.stderr.decode()
            (api_port,) = free_ports(1)
            process = await start(here, hub, api_port)
            try:
                fetched = await here.quern("model", "download", "owner/model", "--json")
                assert fetched.returncode == 0, fetched.stderr.decode()
                assert json.loads(fetched.stdout)["status"] == "available"
                process.kill()
                await process.wait()
                process = await start(here, hub, api_port)
                whole = await here.quern("model", "verify", "huggingface/owner/model")
                assert (whole.returncode, b"is whole" in whole.stdout) == (0, True), whole.stderr.decode()
                headers = {"Authorization": f"Bearer {made.stdout.decode().strip()}"}
                url = f"http://127.0.0.1:{api_port}/models"
                async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
                    assert (await client.get(url)).status_code == 401
                    listed = (await client.get(url, headers=headers)).json()["models"]
                    assert [(item["model_id"], item["status"]) for item in listed] == [
                        ("huggingface/owner/model", "available")
                    ]
                    removed = await client.delete(f"{url}/huggingface/owner/model", headers=headers)
                    assert removed.status_code == 204
                audit = (await here.quern("model", "audit", "--json")).stdout.decode()
                actions = [(item["actor"], item["action"]) for item in json.loads(audit)["entries"]]
                assert actions == [("api: dashboard", "remove"), ("operator", "verify"), ("operator", "download")]
            finally:
                if process.poll() is None:
                    process.kill()
                    await process.wait()
            node = here.directory / "node"
            written = [path.read_bytes() for path in node.rglob("*") if path.is_file()]
            said = audit.encode() + fetched.stdout + fetched.stderr + (here.directory / "log").read_bytes()
            assert not any(TOKEN.encode() in data for data in (*written, said))
            assert b"Traceback" not in said
