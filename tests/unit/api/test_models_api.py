"""The management API of models: every endpoint over a real socket, roles, bounds, and one shape of errors."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from node.api.models import BODY_BYTES_MAX, make_model_app
from node.api.server import bind_api, serve_api
from node.models.identity import LocalModelId
from node.models.manager import ModelManager
from node.models.tokens import ApiRole, add_api_token, remove_api_token
from tests.unit.models.managing import CannedContent, Place, ended, tree

CID = "bafybeifine"
ID = LocalModelId(f"ipfs/{CID}")
FILES = {"config.json": b"{}", "model.safetensors": b"numbers"}


class Face:
    """The API with a token of each role."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder, content=CannedContent({CID: FILES}))
        self.tokens_file = folder / "tokens"
        self.tokens = {role: add_api_token(self.tokens_file, role.value, role) for role in ApiRole}
        self.client: httpx.AsyncClient
        self.manager: ModelManager

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        listener = bind_api("127.0.0.1", 0)
        async with self.place.manager() as self.manager, trio.open_nursery() as nursery:
            nursery.start_soon(serve_api, make_model_app(self.manager, self.tokens_file), listener)
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as self.client:
                yield
            nursery.cancel_scope.cancel()
        listener.close()

    async def ask(
        self, role: ApiRole | None, method: str, path: str, body: object = None, **more: object
    ) -> httpx.Response:
        headers = {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}
        content = None if body is None else json.dumps(body)
        return await self.client.request(method, path, headers=headers, content=content, **more)  # type: ignore[arg-type]


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    made = Face(tmp_path)
    async with made.up():
        yield made


def told(answer: httpx.Response) -> str:
    """Check the shape of an error and return its code."""
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message", "remedy"}
    return str(body["error"]["code"])


async def test_a_model_is_asked_for_watched_looked_at_and_removed(face: Face) -> None:
    asked = await face.ask(ApiRole.OPERATOR, "POST", "/models/download", {"source": "ipfs", "cid": CID})
    assert (asked.status_code, asked.headers["location"]) == (202, f"/models/{ID}/status")
    await ended(face.manager, ID)
    status = (await face.ask(ApiRole.READ_ONLY, "GET", asked.headers["location"])).json()
    assert (status["status"], status["bytes_done"], status["bytes_total"]) == ("available", 9, 9)
    shown = (await face.ask(ApiRole.READ_ONLY, "GET", f"/models/{ID}")).json()
    assert (shown["model_id"], shown["version"], shown["metadata"]["cid"]) == (ID, CID, CID)
    files = (await face.ask(ApiRole.READ_ONLY, "GET", f"/models/{ID}/files")).json()
    assert {item["path"]: item["size_bytes"] for item in files["files"]} == {n: len(d) for n, d in FILES.items()}
    listed = (await face.ask(ApiRole.READ_ONLY, "GET", "/models?status=available&q=FINE")).json()
    assert [item["model_id"] for item in listed["models"]] == [ID]
    assert (await face.ask(ApiRole.READ_ONLY, "GET", "/models?type=embedding")).json()["models"] == []
    again = await face.ask(ApiRole.OPERATOR, "POST", "/models/download", {"source": "ipfs", "cid": CID})
    assert again.status_code == 200
    assert (await face.ask(ApiRole.ADMIN, "DELETE", f"/models/{ID}")).status_code == 204
    gone = await face.ask(ApiRole.ADMIN, "GET", f"/models/{ID}")
    assert (gone.status_code, told(gone)) == (404, "not_found")
    assert tree(face.place.models) == {}
    actors = [(row.actor, row.action) for row in face.manager.audit.newest(limit=10)]
    assert actors == [("api: admin", "remove"), ("api: operator", "download")]


async def test_an_id_may_come_with_its_slash_encoded(face: Face) -> None:
    await face.ask(ApiRole.OPERATOR, "POST", "/models/download", {"source": "ipfs", "cid": CID})
    await ended(face.manager, ID)
    assert (await face.ask(ApiRole.READ_ONLY, "GET", f"/models/ipfs%2F{CID}/files")).status_code == 200


@pytest.mark.parametrize(
    ("role", "method", "path", "status"),
    [
        (None, "GET", "/models", 401),
        (None, "DELETE", f"/models/{ID}", 401),
        (ApiRole.READ_ONLY, "POST", "/models/download", 403),
        (ApiRole.READ_ONLY, "DELETE", f"/models/{ID}", 403),
        (ApiRole.OPERATOR, "DELETE", f"/models/{ID}", 403),
        (ApiRole.OPERATOR, "GET", "/models", 200),
    ],
)
async def test_each_role_may_what_it_may(face: Face, role: ApiRole | None, method: str, path: str, status: int) -> None:
    answer = await face.ask(role, method, path, {} if method == "POST" else None)
    assert answer.status_code == status
    if status != 200:
        assert told(answer) == {401: "unauthorized", 403: "forbidden"}[status]


@pytest.mark.parametrize("header", ["Bearer wrong", "Basic eDp5", "Bearer", "Bearer " + "x" * 5000, "qm_"])
async def test_a_wrong_token_opens_nothing(face: Face, header: str) -> None:
    answer = await face.client.get("/models", headers={"Authorization": header})
    assert (answer.status_code, told(answer)) == (401, "unauthorized")


async def test_a_removed_token_is_out_at_once(face: Face) -> None:
    assert (await face.ask(ApiRole.ADMIN, "GET", "/models")).status_code == 200
    remove_api_token(face.tokens_file, "admin")
    assert (await face.ask(ApiRole.ADMIN, "GET", "/models")).status_code == 401


async def test_tokens_that_others_can_read_open_nothing(face: Face) -> None:
    face.tokens_file.chmod(0o644)
    answer = await face.ask(ApiRole.ADMIN, "GET", "/models")
    assert (answer.status_code, told(answer)) == (503, "unavailable")


async def test_only_an_admin_has_the_daemon_read_a_directory(face: Face, tmp_path: Path) -> None:
    body = {"source": "directory", "directory": str(tmp_path)}
    answer = await face.ask(ApiRole.OPERATOR, "POST", "/models/download", body)
    assert (answer.status_code, told(answer)) == (403, "forbidden")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/models/..%2F..%2Fetc%2Fpasswd", 400, "invalid_params"),
        ("/models/other/x", 400, "invalid_params"),
        ("/models/ipfs/absent", 404, "not_found"),
        ("/models?typo=1", 400, "invalid_params"),
        ("/models?status=wrong", 400, "invalid_params"),
        ("/nothing", 404, "not_found"),
    ],
)
async def test_what_is_asked_wrongly_is_told_in_one_shape(face: Face, path: str, status: int, code: str) -> None:
    answer = await face.ask(ApiRole.ADMIN, "GET", path)
    assert (answer.status_code, told(answer)) == (status, code)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"not json", 400), (b"[" * 100_000, 400), (b"{}", 400), (b'{"source": "hub", "repo": "../x"}', 400),
        (b'{"source": "hub", "repo": "a/b", "model_id": "../../etc"}', 400),
        (b"x" * (BODY_BYTES_MAX + 1), 413),
    ],
)  # fmt: skip
async def test_a_body_that_is_no_request_is_refused(face: Face, content: bytes, status: int) -> None:
    headers = {"Authorization": f"Bearer {face.tokens[ApiRole.ADMIN]}"}
    answer = await face.client.post("/models/download", headers=headers, content=content)
    assert answer.status_code == status, answer.text
    told(answer)


async def test_a_pinned_model_is_not_removed(face: Face) -> None:
    await face.ask(ApiRole.OPERATOR, "POST", "/models/download", {"source": "ipfs", "cid": CID})
    await ended(face.manager, ID)
    face.manager.pin(ID, "test", pinned=True)
    answer = await face.ask(ApiRole.ADMIN, "DELETE", f"/models/{ID}")
    assert (answer.status_code, told(answer)) == (409, "refused")
