"""A real daemon is watched: Prometheus reads it, its operator is told of trouble, programs read prices and health."""

import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from node.chain.devnet import stop_process
from scripts.local_network import free_ports
from tests.integration.chain.conftest import ROOT
from tests.integration.daemon.test_daemon import Place, place
from tests.unit.alerts.test_webhook import receiver

pytestmark = [pytest.mark.chain, pytest.mark.timeout(180)]
SECRET = "hush-hush"


@asynccontextmanager
async def watched_daemon(here: Place, **environment: str) -> AsyncIterator[None]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "node.process", "--config", str(here.config)],
        stdin=subprocess.DEVNULL,
        stderr=(here.directory / "log").open("wb"),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment},
    )
    try:
        yield
    finally:
        await stop_process(process)


async def quern(here: Place, *words: str) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [sys.executable, "-c", "from node.cli.main import main; main()", *words, "--data-dir",
         str(here.directory / "node")],
        capture_stdout=True, capture_stderr=True, check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


async def once_it_answers(client: httpx.AsyncClient, url: str) -> httpx.Response:
    with trio.fail_after(60):
        while True:
            try:
                return await client.get(url)
            except httpx.HTTPError:
                await trio.sleep(0.1)


async def test_a_daemon_is_watched_from_outside_and_tells_its_operator(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    metrics, api = free_ports(2)
    async with place(tmp_path) as here, receiver() as (hook, url), httpx.AsyncClient(trust_env=False) as client:
        settings = {
            "QUERN_METRICS__PORT": str(metrics),
            "QUERN_API__PORT": str(api),
            "QUERN_API__CACHE_BYTES_MAX": "1000000",
            "QUERN_ALERTS__WEBHOOK_URL": url,
            "QUERN_ALERTS__SECRET_FILE": os.fspath(secret),
            "QUERN_ALERTS__DISK_FREE_GIB_MIN": "100000",
            "QUERN_PARTICIPANT__REGISTER_ON_START": "false",
        }
        async with watched_daemon(here, **settings):
            reply = await once_it_answers(client, f"http://127.0.0.1:{metrics}/metrics")
            samples = {
                (sample.name, *sorted(sample.labels.values())): sample.value
                for family in text_string_to_metric_families(reply.text)
                for sample in family.samples
            }
            unread = [key for key, value in samples.items() if key[0] == "quern_source_up" and not value]
            assert unread == []
            assert samples["quern_head_block",] > 0
            assert samples["quern_service_up", "watch"] == 1
            assert samples["quern_registered",] == 0

            base = f"http://127.0.0.1:{api}"
            health = await client.get(f"{base}/health")
            assert (health.status_code, health.json()["model_loaded"]) == (200, False)
            assert (await client.post(f"{base}/api/chat", json={"prompt": "hi"})).status_code == 503
            assert (await client.post(f"{base}/api/chat/tiny", json={"prompt": "hi"})).status_code == 404
            assert (await client.get(f"{base}/v1/pricing")).json()["object"] == "list"
            assert (await client.get(f"{base}/v1/governance/models")).json()["data"] == []
            assert (await client.get(f"{base}/v1/models")).status_code == 200

            with trio.fail_after(30):
                while len(hook.got) < 2:
                    await trio.sleep(0.1)
            headers, body = hook.got[0]
            signed = f"{headers['x-quern-timestamp']}.".encode() + body
            expected = "sha256=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
            assert headers["x-quern-signature"] == expected
            told = {(notice["kind"], notice["state"]) for notice in (json.loads(body) for _, body in hook.got)}
            assert told == {("low-gas", "raised"), ("disk", "raised")}  # its account was never given any

            listed = json.loads((await quern(here, "alerts", "list", "--json")).stdout)
            assert {alert["kind"] for alert in listed["alerts"]} == {"low-gas", "disk"}
            assert listed["webhook"] == "127.0.0.1"
            tested = await quern(here, "alerts", "test")
            assert tested.returncode == 0, tested.stderr
            assert json.loads(hook.got[-1][1])["state"] == "test"
        said = (tmp_path / "log").read_text()
        assert "T0PS3CRET" not in said
        assert SECRET not in said
        assert "Traceback" not in said


async def test_a_metrics_port_that_is_taken_does_not_stop_a_daemon(tmp_path: Path) -> None:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    (api,) = free_ports(1)
    async with place(tmp_path) as here, httpx.AsyncClient(trust_env=False) as client:
        ports = {"QUERN_METRICS__PORT": str(taken.getsockname()[1]), "QUERN_API__PORT": str(api)}
        async with watched_daemon(here, **ports, QUERN_PARTICIPANT__REGISTER_ON_START="false"):
            assert (await once_it_answers(client, f"http://127.0.0.1:{api}/health")).status_code == 200
        assert "there are no metrics" in (tmp_path / "log").read_text()
    taken.close()
