"""Log lines of a real server: each request's carry its id and nothing that it sent."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from clip_search.v1 import item_pb2, search_pb2, search_pb2_grpc
from demo.server_process import ServerProcess
from tests.integration.conftest import Png
from tests.integration.stubs import SECONDS, Client, image, stored, text


def _logged(log: Path) -> list[dict[str, object]]:
    """Return the lines that are JSON; besides there is the one line of the standard output."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]


def test_each_request_is_found_by_its_id(bundle: Path, png: Png, tmp_path: Path) -> None:
    """Of requests that come together each has its line, with method, code and time; contents and ids are in none."""
    log = tmp_path / "log"
    options = ["--log-format", "json", "--log-level", "debug"]
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=log, options=options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        Client(channel).upsert(item_pb2.Item(id="secret-item", content=image(png("red"))))
        stub = search_pb2_grpc.SearchServiceStub(channel)

        def search(number: int) -> None:
            content = text(f"secret words {number}") if number else stored("secret-nobody")
            request = search_pb2.SearchRequest(parts=[search_pb2.QueryPart(content=content)])
            try:
                stub.Search(request, timeout=SECONDS, metadata=(("x-request-id", f"mine-{number}"),))
            except grpc.RpcError:
                assert number == 0

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(search, range(20)))
    lines = _logged(log)
    ends = {line["request_id"]: line for line in lines if line.get("method") == "/clip_search.v1.SearchService/Search"}
    assert set(ends) == {f"mine-{number}" for number in range(20)}
    assert {line["code"] for line in ends.values()} == {"OK", "NOT_FOUND"}
    assert ends["mine-0"]["code"] == "NOT_FOUND"
    assert all(isinstance(line["milliseconds"], float) for line in ends.values())
    assert not [line for line in lines if line["logger"] == "clip_search_server.rpc.server" and "request_id" in line]
    assert "secret" not in log.read_text(encoding="utf-8")
