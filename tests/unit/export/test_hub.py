"""Checkpoints from a hub: what is fetched, how often, from which commit, and what is said when it cannot be.

Everything runs against the stub in `tests/hub_stub.py`, with a cache of its own.
"""

import errno
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Final, Literal

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from clip_search_export import hub_cache
from clip_search_export.checkpoints.layouts import read_checkpoint
from clip_search_export.errors import CheckpointError, SourceError
from clip_search_export.exporter import export
from clip_search_export.hub import download_checkpoint
from clip_search_export.sources import locate
from clip_search_export.space import compute_space_id
from clip_search_server.bundle import Bundle
from tests.hub_stub import HubStub
from tests.unit.export.random_checkpoints import write_hf_clip, write_open_clip
from tests.unit.export.torch_files import write_torch_file, write_zip

NAME = "org/name"
WEIGHTS = "model.safetensors"
EXPORT: Final = "from clip_search.launcher import main; main()"
CHUNK_BYTES = 10 << 20
"""What huggingface_hub writes at a time, and so the step in which a download can be resumed."""
LARGE_BYTES = 3 * CHUNK_BYTES


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStub]:
    """A hub without repositories, and this process led there."""
    with HubStub() as stub:
        stub.lead_here(monkeypatch, tmp_path / "cache")
        yield stub


@pytest.fixture
def source(hf_folder: Path, tmp_path: Path) -> Path:
    """The files of a small repository, with other copies of the weights that must not be fetched."""
    folder = tmp_path / "source"
    shutil.copytree(hf_folder, folder)
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [clip]\n---\n# A model\n")
    for name in ("pytorch_model.bin", "open_clip_pytorch_model.bin", "flax_model.msgpack", "model.fp16.safetensors"):
        (folder / name).write_bytes(b"not to be fetched")
    return folder


@pytest.fixture
def large(source: Path) -> Path:
    """The same with a weight file of several pieces."""
    tensors = load_file(source / WEIGHTS)
    noise = np.random.RandomState(0).randint(0, 256, LARGE_BYTES, np.uint8)
    save_file({**tensors, "unused": noise}, source / WEIGHTS)
    return source


def _environment(hub: HubStub, cache: Path, **changes: str) -> dict[str, str]:
    return {**os.environ, **hub.environment(cache), **changes}


def _run_export(hub: HubStub, folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run `clip-search export` with a cache in `folder`, to `folder/out`."""
    command = [sys.executable, "-c", EXPORT, "export", NAME, str(folder / "out"), *arguments]
    environment = _environment(hub, folder / "cache", **changes)
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, env=environment)


def _download(revision: str | None = None, *, source: str = NAME, steps: list[str] | None = None) -> Path:
    told: list[str] = [] if steps is None else steps
    return download_checkpoint(source, revision, told.append).folder


def _error_of(revision: str | None = None, *, source: str = NAME) -> str:
    """Return the message of a download that fails."""
    with pytest.raises(SourceError) as told:
        _download(revision, source=source)
    assert str(told.value).isprintable()
    return str(told.value)


def _size_bytes(path: Path) -> int:
    """Return the size of a file that another process may rename meanwhile."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _partial_files(folder: Path) -> list[Path]:
    return sorted((folder / "cache").rglob("*.incomplete"))


# --- What is fetched. ---


def test_a_hub_id_becomes_a_bundle_and_again_without_a_connection(hub: HubStub, source: Path, tmp_path: Path) -> None:
    """`clip-search export owner/name OUT` fetches one set of weights with what belongs to it and records the commit.

    With HF_HUB_OFFLINE the cached model is exported again, to the same bundle.
    """
    commit = hub.add(NAME, source)
    result = _run_export(hub, tmp_path)
    assert result.returncode == 0, result.stderr
    first = Bundle.open(tmp_path / "out").manifest
    assert (first.model.source, first.model.revision, first.model.licence) == (NAME, commit, "mit")
    assert hub.downloaded() == {"README.md", "config.json", "preprocessor_config.json", "tokenizer.json", WEIGHTS}
    assert len(hub.requests_for(WEIGHTS)) == 1
    assert f"downloading {WEIGHTS} (0.5 MB)" in result.stderr
    shutil.rmtree(tmp_path / "out")
    hub.requests.clear()
    result = _run_export(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert result.returncode == 0, result.stderr
    assert f"using commit {commit} from the cache" in result.stderr
    assert Bundle.open(tmp_path / "out").manifest.bundle_digest() == first.bundle_digest()
    assert hub.requests == []


def test_a_hub_that_has_gone_is_replaced_by_the_cache(hub: HubStub, source: Path) -> None:
    """A cached model is found without a connection, by the name of its revision as well as by its commit."""
    commit = hub.add(NAME, source, revisions=("main", "v1"))
    folder = _download("v1")
    hub.stop()
    steps: list[str] = []
    assert _download("v1", steps=steps) == _download(commit) == folder
    assert steps == [f"the hub cannot be reached: using commit {commit} from the cache"]
    assert "give that folder as the source" in _error_of("main")


def test_weights_are_fetched_once(hub: HubStub, source: Path) -> None:
    """A second run asks whether the revision moved, and fetches no file again."""
    hub.add(NAME, source)
    folder = _download()
    hub.requests.clear()
    assert _download() == folder
    assert hub.requests != []
    assert hub.downloaded() == set()
    assert hub.requests_for(WEIGHTS) == []


def test_of_a_sharded_repository_the_shards_of_one_set_are_fetched(hub: HubStub, source: Path) -> None:
    """A sharded checkpoint is fetched whole, by its index, without shards of other copies."""
    tensors = sorted(load_file(source / WEIGHTS).items())
    (source / WEIGHTS).unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for shard, part in zip(shards, (tensors[::2], tensors[1::2]), strict=True):
        save_file(dict(part), source / shard)
    weight_map = {name: shards[index % 2] for index, (name, _) in enumerate(tensors)}
    (source / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (source / "pytorch_model-00001-of-00001.bin").write_bytes(b"not to be fetched")
    (source / "model-00003-of-00002.safetensors").write_bytes(b"not in the index")
    hub.add(NAME, source)
    assert read_checkpoint(_download()).architecture == "CLIP ViT (Hugging Face)"
    assert {name for name in hub.downloaded() if "model" in name} == {f"{WEIGHTS}.index.json", *shards}


def test_the_layout_whose_weights_are_preferred_is_fetched(hub: HubStub, tmp_path: Path) -> None:
    """Of a repository in both layouts, with safetensors in one alone, those are fetched and read."""
    folder = write_hf_clip(tmp_path / "source")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    write_open_clip(folder)
    hub.add(NAME, folder)
    assert read_checkpoint(_download()).architecture == "CLIP ModifiedResNet (OpenCLIP)"
    assert not {WEIGHTS, "pytorch_model.bin"} & hub.downloaded()


def test_a_repository_of_pickles_alone_is_read(hub: HubStub, source: Path) -> None:
    """Without safetensors PyTorch's file is fetched and read, and gives the same space as safetensors would."""
    expected = compute_space_id(read_checkpoint(source))
    write_torch_file(source / "pytorch_model.bin", load_file(source / WEIGHTS))
    (source / WEIGHTS).unlink()
    hub.add(NAME, source)
    assert compute_space_id(read_checkpoint(_download())) == expected


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["config.json", "tf_model.h5", "a.msgpack"], ["no weights", WEIGHTS, "a.msgpack, tf_model.h5"]),
        (["README.md", WEIGHTS], ["neither config.json nor open_clip_config.json"]),
        (["config.json", f"{WEIGHTS}.index.json"], ["has no shard.safetensors"]),
    ],
)
def test_a_repository_without_what_is_needed_is_told_so(
    hub: HubStub, tmp_path: Path, names: list[str], parts: list[str]
) -> None:
    """A repository without readable weights or configuration is refused with what was found, before any large file."""
    (tmp_path / "source").mkdir()
    for name in names:
        content = {"weight_map": {"a": "shard.safetensors"}} if "index" in name else {"model_type": "clip"}
        (tmp_path / "source" / name).write_text(json.dumps(content))
    hub.add(NAME, tmp_path / "source")
    message = _error_of()
    assert all(part in message for part in parts), message
    assert hub.requests_for(WEIGHTS) == []


def test_a_shard_index_cannot_lead_elsewhere(hub: HubStub, source: Path, tmp_path: Path) -> None:
    """A repository whose index names a path outside it is refused; nothing is written there."""
    (source / WEIGHTS).rename(source / "evil.safetensors")
    (source / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "../../../evil.safetensors"}}))
    hub.add(NAME, source)
    with pytest.raises(CheckpointError, match="which is not in the folder"):
        _download()
    assert not [path for path in tmp_path.rglob("evil.safetensors") if path.parent != source]


# --- Broken connections. ---


@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_broken_download_is_resumed(hub: HubStub, large: Path, tmp_path: Path, how: Literal["end", "reset"]) -> None:
    """A connection that ends or is reset midway is taken up where it broke, in the same run."""
    hub.add(NAME, large)
    hub.break_connection(WEIGHTS, after_bytes=2 * CHUNK_BYTES + 1000, how=how)
    folder = _download()
    first, second = hub.requests_for(WEIGHTS)
    assert first.range is None
    # A reset may discard what had arrived and was not read yet.
    chunks = [2] if how == "end" else [0, 1, 2]
    assert second.range in {f"bytes={count * CHUNK_BYTES}-" if count else None for count in chunks}
    assert (folder / WEIGHTS).read_bytes() == (large / WEIGHTS).read_bytes()
    assert _partial_files(tmp_path) == []


def test_a_killed_download_is_resumed_by_the_next_run(hub: HubStub, large: Path, tmp_path: Path) -> None:
    """A program killed in the middle of a download leaves what came; the next run asks for the rest alone."""
    hub.add(NAME, large)
    hub.break_connection(WEIGHTS, after_bytes=CHUNK_BYTES + 1000, how="pause")
    command = [sys.executable, "-c", EXPORT, "export", NAME, str(tmp_path / "out")]
    with subprocess.Popen(command, env=_environment(hub, tmp_path / "cache"), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not any(_size_bytes(path) >= CHUNK_BYTES for path in _partial_files(tmp_path)):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    hub.release.set()
    assert not (tmp_path / "out").exists()
    steps: list[str] = []
    folder = _download(steps=steps)
    assert hub.requests_for(WEIGHTS)[-1].range == f"bytes={CHUNK_BYTES}-"
    assert re.fullmatch(rf"3\d\.\d MB to download; the licence of {NAME} is mit", steps[0])
    assert steps[1].endswith(f"going on at {CHUNK_BYTES / 1e6:.1f} MB")
    assert (folder / WEIGHTS).read_bytes() == (large / WEIGHTS).read_bytes()


def test_a_connection_that_stays_away_is_given_up_and_resumed_later(
    hub: HubStub, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing more comes, the message says how far it got; a later run goes on from there."""
    hub.add(NAME, large)
    hub.break_connection(WEIGHTS, after_bytes=CHUNK_BYTES + 1000, how="outage")
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    message = _error_of()
    assert re.search(r"broke when 10\.5 MB of 3\d\.\d MB of model\.safetensors had come", message)
    assert "run the command again" in message
    hub.outage_status = None
    folder = _download()
    assert hub.requests_for(WEIGHTS)[-1].range == f"bytes={CHUNK_BYTES}-"
    assert (folder / WEIGHTS).read_bytes() == (large / WEIGHTS).read_bytes()


def test_a_server_that_cannot_resume_sends_all_again(hub: HubStub, large: Path) -> None:
    """A server that ignores the range it is asked for does not corrupt the file."""
    hub.add(NAME, large)
    hub.ignore_ranges = True
    hub.break_connection(WEIGHTS, after_bytes=CHUNK_BYTES + 1000)
    assert (_download() / WEIGHTS).read_bytes() == (large / WEIGHTS).read_bytes()


def test_a_file_damaged_on_its_way_is_not_kept(hub: HubStub, source: Path, tmp_path: Path) -> None:
    """A file whose digest is not the hub's is removed and told; the next run fetches it anew."""
    hub.add(NAME, source)
    hub.garble = WEIGHTS
    assert f"{WEIGHTS} was damaged on its way" in _error_of()
    assert _partial_files(tmp_path) == []
    hub.garble = None
    assert (_download() / WEIGHTS).read_bytes() == (source / WEIGHTS).read_bytes()


def test_an_interrupted_download_is_not_taken_for_whole(
    hub: HubStub, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a connection, a cache that has the small files and not the weights is no checkpoint."""
    hub.add(NAME, source)
    hub.break_connection(WEIGHTS, after_bytes=10, how="outage")
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    assert "run the command again" in _error_of()
    assert "give that folder as the source" in _error_of()


def test_progress_is_shown_on_a_terminal(hub: HubStub, large: Path, tmp_path: Path) -> None:
    """On a terminal the download of the weights has a bar with its share, on stderr."""
    hub.add(NAME, large)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-c", EXPORT, "export", NAME, str(tmp_path / "out")]
    environment = _environment(hub, tmp_path / "cache", TERM="xterm")
    with subprocess.Popen(command, env=environment, stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = _read_terminal(ours)
        assert process.wait(100) == 0
    assert re.search(rf"{WEIGHTS}: +100%.*/s", shown)
    assert "Fetching" not in shown


def _read_terminal(descriptor: int) -> str:
    shown = b""
    while True:
        try:
            piece = os.read(descriptor, 1 << 16)
        except OSError:  # The other side is closed.
            piece = b""
        if not piece:
            os.close(descriptor)
            return shown.decode(errors="replace")
        shown += piece


def test_the_layout_that_an_exporter_reads_is_fetched(hub: HubStub, tmp_path: Path) -> None:
    """An exporter that reads one layout alone gets its weights and tokenizer, whatever the native one would prefer."""
    source = write_open_clip(tmp_path / "source")
    (source / "config.json").write_text('{"model_type": "chinese_clip"}')
    (source / "pytorch_model.bin").write_bytes(b"weights in Hugging Face layout")
    (source / "vocab.txt").write_text("[PAD]\n")
    hub.add(NAME, source)
    folder = locate(NAME, None, layout="hugging_face").folder
    assert (folder / "pytorch_model.bin").is_file()
    assert (folder / "vocab.txt").is_file()
    assert not (folder / "open_clip_model.safetensors").exists()
    hub.stop()
    assert locate(NAME, None, layout="hugging_face").folder == folder
    with pytest.raises(SourceError, match="not in the local cache"):
        locate(NAME, None)
    with pytest.raises(SourceError, match="not in the local cache"):
        locate(NAME, None, layout="open_clip")


# --- Revisions, tokens. ---


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: HubStub, source: Path, tmp_path: Path) -> None:
    """A revision selects the files, and is resolved to a commit."""
    old = hub.add(NAME, source, revisions=("main", "v1"))
    new = hub.add(NAME, write_hf_clip(tmp_path / "newer", seed=7))
    for revision, commit, folder in (("v1", old, source), (None, new, tmp_path / "newer"), (old, old, source)):
        found = download_checkpoint(NAME, revision, lambda _step: None)
        assert found.revision == commit
        assert (found.folder / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert "has no revision 'v9'" in _error_of("v9")


def test_the_revision_of_the_command_line_is_recorded(hub: HubStub, source: Path, tmp_path: Path) -> None:
    """`--revision` reaches the hub, and the manifest records the commit it resolved to."""
    old = hub.add(NAME, source, revisions=("main", "v1"))
    hub.add(NAME, write_hf_clip(tmp_path / "newer", seed=7))
    assert export(NAME, tmp_path / "out", revision="v1").manifest.model.revision == old


def test_a_private_repository_needs_its_token(hub: HubStub, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_TOKEN opens a private repository and is shown to the hub alone; without it the message says what to set."""
    hub.add(NAME, source, token="secret")
    message = _error_of()
    assert "neither a folder here nor a repository" in message
    assert "set HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "to the token it was given" in _error_of()
    hub.requests.clear()
    monkeypatch.setenv("HF_TOKEN", "secret")
    _download()
    assert {request.authorization for request in hub.requests if request.host == "hub"} == {"Bearer secret"}
    assert {request.authorization for request in hub.requests if request.host == "files"} == {None}


def test_a_gated_repository_asks_for_its_terms(hub: HubStub, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gated repository gives the page where its terms are accepted."""
    hub.add(NAME, source, token="secret", gated=True)
    assert f"accept its terms at {hub.endpoint}/{NAME} and set HF_TOKEN" in _error_of()
    monkeypatch.setenv("HF_TOKEN", "secret")
    _download()


def test_an_unknown_repository_is_told(hub: HubStub) -> None:
    """A name that the hub does not know is neither a folder nor a repository."""
    assert "org/nothing is neither a folder here nor a repository" in _error_of(source="org/nothing")


# --- No connection, no room. ---


@pytest.mark.parametrize("case", ["unreachable", "unknown host", "outage", "no hub"])
def test_without_a_connection_the_files_to_copy_are_listed(
    hub: HubStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """A hub that cannot be reached gives a message that says which files to copy and where."""
    hub.outage_status = {"outage": 503, "no hub": 200}.get(case)
    if case == "unreachable":
        hub.stop()
    if case == "unknown host":
        monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    message = _error_of()
    for part in (NAME, WEIGHTS, "config.json", "tokenizer.json", "/tree/main", "give that folder as the source"):
        assert part in message


def test_offline_the_files_to_copy_are_one_line_and_exit_1(hub: HubStub, tmp_path: Path) -> None:
    """With HF_HUB_OFFLINE and nothing cached, the command line says in one line what to do, and exits 1."""
    result = _run_export(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert result.returncode == 1
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert "give that folder as the source" in message
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
    assert hub.requests == []


def test_too_small_a_disk_is_told_before_the_download(
    hub: HubStub, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights for which there is no room are not begun; the message has both sizes and the way out."""
    hub.add(NAME, source)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.warns(UserWarning, match="Not enough free disk space"):
        message = _error_of()
    assert re.search(r"needs 0\.5 MB more and .*cache/hub has 0\.0 MB free: make room, or set HF_HOME", message)
    assert hub.requests_for(WEIGHTS) == []


def test_a_disk_that_fills_up_is_told(hub: HubStub, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails for want of room ends the download at once, with the way out."""

    def http_get(*_arguments: object, **_settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.add(NAME, source)
    monkeypatch.setattr(hub_cache, "http_get", http_get)
    assert "is full: make room, or set HF_HOME" in _error_of()


def test_a_single_file_as_the_source_is_told_what_to_do(source: Path, tmp_path: Path) -> None:
    """A path to a weight file asks for the folder around it."""
    with pytest.raises(SourceError, match="is a file: give the folder that holds it"):
        locate(str(source / WEIGHTS), None)


def test_a_torchscript_file_as_the_source_is_told_what_to_use(tmp_path: Path) -> None:
    """OpenAI's own file, given as the source, is answered with the hub id of the same weights."""
    path = write_zip(tmp_path / "ViT-B-32.pt", {}, {}, **{"constants.pkl": b""})
    with pytest.raises(CheckpointError, match=r"TorchScript archive.*openai/clip-vit-base-patch32"):
        locate(str(path), None)
