"""The schema registry keeps what it acknowledged, whatever ends it."""

from __future__ import annotations

import json
from contextlib import closing

import httpx
import pytest

from stack.registry import SchemaRegistry
from stack.server import accepts
from tests.stack.servers import started

pytestmark = pytest.mark.registry

_RECORD = {"type": "record", "name": "Kept", "fields": [{"name": "a", "type": "int"}]}


def test_what_was_registered_survives_a_crash() -> None:
    with closing(started(SchemaRegistry())) as server, httpx.Client(base_url=server.url) as client:
        url, folder = server.url, server.folder
        body = {"schema": json.dumps(_RECORD)}
        answer = client.post("/subjects/kept-value/versions", json=body)
        client.put("/config/kept-value", json={"compatibility": "FULL_TRANSITIVE"})
        server.kill()
        with pytest.raises(httpx.TransportError):
            client.get("/subjects")
        server.start()
        assert server.url == url
        assert client.post("/subjects/kept-value", json=body).json()["id"] == answer.json()["id"]
        assert client.get("/config/kept-value").json() == {"compatibilityLevel": "FULL_TRANSITIVE"}
        broken = {**_RECORD, "fields": [{"name": "b", "type": "int"}]}
        refused = client.post("/subjects/kept-value/versions", json={"schema": json.dumps(broken)})
        assert refused.status_code == 409
    assert not folder.exists()
    assert not accepts(int(url.split(":")[2].split("/")[0]))
