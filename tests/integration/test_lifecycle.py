"""Starting, refusing to start, stopping and starting again, as an operator does it."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from clip_search.v1 import index_pb2, item_pb2, server_pb2, server_pb2_grpc
from clip_search_server.index import Collection
from demo.server_process import ServerProcess, program
from tests.integration.conftest import Png
from tests.integration.stubs import SECONDS, Client, image, text
from tests.unit.index.support import wait_until

SERVICES = ("CollectionService", "EmbeddingService", "IndexService", "SearchService", "ServerService")


def refused_start(bundle: Path, data: Path, *options: str) -> str:
    """Return the one line that a server says which cannot start."""
    command = [program("clip-search"), "serve", "--bundle", str(bundle), "--data", str(data), "--listen", "127.0.0.1:0"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert not result.stdout
    assert "Traceback" not in result.stderr
    lines: list[str] = result.stderr.splitlines()
    return next(line for line in lines if line.startswith("clip-search serve:"))


@pytest.mark.parametrize("service", ["", *(f"clip_search.v1.{name}" for name in SERVICES)])
def test_every_service_reports_its_health(channel: grpc.Channel, service: str) -> None:
    """The standard health service says SERVING for the server and for each service."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
    assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_api(channel: grpc.Channel) -> None:
    """A client without our protos can discover every service."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (response,) = stub.ServerReflectionInfo(iter([request]), timeout=SECONDS)
    names = {service.name for service in response.list_services_response.service}
    assert {f"clip_search.v1.{name}" for name in SERVICES} | {"grpc.health.v1.Health"} <= names


def test_the_server_tells_its_model_and_limits(channel: grpc.Channel) -> None:
    """GetServerInfo names the default model, its space and every limit."""
    stub = server_pb2_grpc.ServerServiceStub(channel)
    info = stub.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=SECONDS)
    (model,) = info.models
    assert (model.is_default, model.embedding_dim, model.precision) == (True, 192, "fp16")
    assert all(getattr(info.limits, field.name) > 0 for field in info.limits.DESCRIPTOR.fields)


def test_reflection_can_be_closed(bundle: Path, tmp_path: Path) -> None:
    """With --no-reflection nobody is told what there is, and everything else is there."""
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log", options=["--no-reflection"]) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.ServerReflectionInfo(asked, timeout=SECONDS))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        info = server_pb2_grpc.ServerServiceStub(channel)
        assert info.GetServerInfo(server_pb2.GetServerInfoRequest(), timeout=SECONDS).models


def test_a_restart_gives_the_same_answers(bundle: Path, png: Png, tmp_path: Path) -> None:
    """SIGTERM takes a snapshot and exits 0; the next start answers as before, ids and scores."""
    log = tmp_path / "log"
    with ServerProcess.start(bundle, tmp_path / "data", log=log, options=["--segment-rows", "16"]) as server:
        with grpc.insecure_channel(server.address) as channel:
            client = Client(channel)
            colours = [(n * 5 % 256, n * 11 % 256, n * 17 % 256) for n in range(60)]
            client.upsert(*(item_pb2.Item(id=f"{n}", content=image(png(c))) for n, c in enumerate(colours)))
            client.delete("3", "4")
            wait_until(lambda: bool(client.index.GetStats(index_pb2.GetStatsRequest(), timeout=SECONDS).segments))
            before = client.search(text("a green square"), limit=58)
        server.stop()
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=log) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        client = Client(channel)
        after = client.search(text("a green square"), limit=58)
        stats = client.index.GetStats(index_pb2.GetStatsRequest(), timeout=SECONDS)
    assert [(hit.id, hit.score) for hit in after.hits] == [(hit.id, hit.score) for hit in before.hits]
    assert len(after.hits) == stats.items == 58
    assert stats.segments
    assert stats.snapshot.generation


def test_a_health_watch_does_not_hold_up_the_stop(bundle: Path, tmp_path: Path) -> None:
    """An open watch is told NOT_SERVING, and the server exits without using up its time for draining."""
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert server.stop() < 15  # of the 30 seconds that calls in flight may take


def test_an_open_stream_ends_with_what_it_sent(bundle: Path, png: Png, tmp_path: Path) -> None:
    """At a stop, received items are answered, then the stream ends UNAVAILABLE; the client need not close it."""
    sent, end, log = 12, threading.Event(), tmp_path / "log"

    def requests() -> Iterator[index_pb2.IngestRequest]:
        for number in range(sent):
            yield index_pb2.IngestRequest(index=number, item=item_pb2.Item(id=f"{number}", content=image(png("red"))))
        end.wait(SECONDS)

    with ServerProcess.start(bundle, tmp_path / "data", log=log) as server:
        with grpc.insecure_channel(server.address) as channel:
            call = Client(channel).index.Ingest(requests(), timeout=SECONDS)
            answers = [next(call).result]
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            with pytest.raises(grpc.RpcError) as ended:
                answers += [answer.result for answer in call]
            end.set()
            assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
            stopping.join(15)  # of the 30 seconds that calls in flight may take
        assert not server.is_running()
    assert all(answer.HasField("stored") for answer in answers)
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=log) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stats = Client(channel).index.GetStats(index_pb2.GetStatsRequest(), timeout=SECONDS)
        assert stats.items >= len(answers)
        assert stats.snapshot.generation  # taken at the stop: nothing else took one


def test_calls_in_flight_are_finished_and_new_ones_refused(bundle: Path, png: Png, tmp_path: Path) -> None:
    """At a stop a long request is answered in full; whoever comes meanwhile is told UNAVAILABLE; the exit code is 0."""
    items = [item_pb2.Item(id=f"{n}", content=image(png((n % 256, n // 2, 9), (700, 700)))) for n in range(150)]
    with (
        ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        client = Client(channel)
        client.search(text("connected"))
        upsert = client.index.Upsert.future(index_pb2.UpsertRequest(items=items), timeout=SECONDS)
        while not client.index.GetStats(index_pb2.GetStatsRequest(), timeout=SECONDS).items:
            assert not upsert.done()
        os.kill(server.pid, signal.SIGTERM)
        refused = _first_failure(lambda: client.search(text("too late")))
        assert refused.code() == grpc.StatusCode.UNAVAILABLE
        assert not upsert.done()
        assert all(result.HasField("stored") for result in upsert.result().results)
        assert _exit_code(server) == 0


def _first_failure(ask: Callable[[], object]) -> grpc.RpcError:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        try:
            ask()
        except grpc.RpcError as error:
            return error
    raise AssertionError("nothing was refused")


def _exit_code(server: ServerProcess) -> int:
    return server._process.wait(SECONDS)


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    """The message names the folder and what belongs there."""
    line = refused_start(tmp_path / "nothing", tmp_path / "data")
    assert str(tmp_path / "nothing") in line
    assert "clip-search export" in line
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx", "tokenizer.json", "manifest.json"])
def test_a_flipped_byte_in_the_bundle_is_named(bundle: Path, tmp_path: Path, name: str) -> None:
    """A damaged file is named with what to do, and nothing is written."""
    damaged = tmp_path / "bundle"
    shutil.copytree(bundle, damaged)
    content = bytearray((damaged / name).read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / name).write_bytes(content)
    line = refused_start(damaged, tmp_path / "data")
    assert name in line
    assert "export" in line
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_is_told_at_once(server: ServerProcess, bundle: Path, tmp_path: Path) -> None:
    """The second server names the address and leaves no data folder behind."""
    line = refused_start(bundle, tmp_path / "data", "--listen", server.address)
    assert server.address in line
    assert not (tmp_path / "data").exists()


def test_a_second_server_on_one_data_folder_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Two processes never write one folder."""
    data = tmp_path / "data"
    with ServerProcess.start(bundle, data, log=tmp_path / "log"):
        assert str(data) in refused_start(bundle, data)


def test_a_data_folder_of_another_model_is_refused_untouched(bundle: Path, tmp_path: Path) -> None:
    """The message names both spaces, and no byte changes but the process number in the lock."""
    folder = tmp_path / "data/collections/default"
    Collection.open(folder, dim=192, space_id="another-space").close()

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}

    before = content()
    line = refused_start(bundle, tmp_path / "data")
    assert "another-space" in line
    assert "sha256:" in line
    assert content() == before


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_listening_to_the_world_needs_a_word(bundle: Path, tmp_path: Path, address: str) -> None:
    """Without TLS the server keeps to loopback unless it is told otherwise."""
    assert "--insecure" in refused_start(bundle, tmp_path / "data", "--listen", address)


def test_asking_for_8_bits_that_were_not_exported_is_an_error(bundle: Path, tmp_path: Path) -> None:
    """`--precision int8` never runs another precision; the message says how to get it."""
    assert "export it with --int8" in refused_start(bundle, tmp_path / "data", "--precision", "int8")
    assert not (tmp_path / "data").exists()


def test_asking_for_a_missing_gpu_is_an_error(bundle: Path, tmp_path: Path) -> None:
    """`--device cuda` never falls back silently (clip-as-service #733)."""
    line = refused_start(bundle, tmp_path / "data", "--device", "cuda")
    assert "server-gpu" in line
