"""Every command of the documents, run as it stands: a page is one shell session, in a folder with what it speaks of.

What is not as it is at a reader's:

- `localhost:50051` in a block becomes the address of the page's server, which also stands in `CLIP_SEARCH_SERVER`.
- `clip-search serve`, `gallery` and `up`, which stay, go on behind the session, on free ports; `serve` ends the `serve`
  before it, as the same port would force a reader to.
- Folders of the machine (`/etc/clip-search`, `/var/lib/clip-search`, `/backup`) lie in the session's, and so does `~`.
- The model hub is a stub on loopback which gives the demo's weights under the name of every repository asked for.
- No browser is opened.

`tests/documents.py` lists what is not run, and why. Needs bash.
"""

import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from clip_search import Client, Image
from demo.server_process import ServerProcess
from tests.documents import PAGES, ROOT, Block, blocks_of, is_run
from tests.hub_stub import HubStub

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SECONDS_MAX = 200.0
MODEL = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
#: Folders of the machine that pages name, and what they are below the session's folder.
MACHINE_FOLDERS = ("/etc/clip-search", "/var/lib/clip-search", "/backup")

#: The session's own commands: what stays goes on behind it, until the session ends or another `serve` begins.
PRELUDE = r"""
set -euo pipefail
declare -A running=()
trap 'kill "${running[@]}" 2>/dev/null || true; wait' EXIT

# behind NAME COMMAND...: start it, wait until it says where it listens, and leave that in `address`.
behind() {
  local name=$1 log=$STAGE/$1.log pid
  shift
  stop "$name"
  : >"$log"
  "$@" >"$log" 2>&1 &
  pid=$!
  running[$name]=$pid
  for _ in {1..1200}; do
    address=$(sed -n -E 's/^(listening on|ready: search at) ([^ ;]+).*/\2/p' "$log")
    [ -z "$address" ] || return 0
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
  done
  cat "$log" >&2
  return 1
}

# stop NAME: end what goes on under this name, in order.
stop() {
  local pid=${running[$1]-}
  [ -n "$pid" ] || return 0
  kill "$pid"
  wait "$pid" || true
  unset "running[$1]"
}

clip-search() {
  case " $* " in *" --print-config "*) command clip-search "$@"; return ;; esac
  case $1 in
    serve) behind serve clip-search-program "$@" --listen 127.0.0.1:0 && export CLIP_SEARCH_SERVER=$address ;;
    gallery | up) behind "$1" clip-search-program "$@" --listen 127.0.0.1:0 ;;
    *) command clip-search "$@" ;;
  esac
}
clip-search-program() { exec clip-search "$@"; }
cd "$STAGE"
"""

#: Pages whose own commands start the servers that they need.
WITH_SERVERS_OF_THEIR_OWN = {"README.md", "docs/export.md", "docs/operations.md", "docs/serving.md"}
#: What a reader would have done before a page.
BEGINNINGS = {
    "docs/operations.md": (
        'clip-search serve --bundle my-bundle --data "$STAGE/var/lib/clip-search"; search_client index ~/Pictures'
    ),
    "docs/serving.md": "clip-search export demo-vit better-bundle",
    "docs/terminal.md": "search_client index ~/photos",
}
#: And before a block, by page and how it begins.
BEFORE: dict[tuple[str, str], str] = {
    ("docs/operations.md", "clip-search rebuild"): "stop serve",
    ("docs/troubleshooting.md", "clip-search check"): (
        'clip-search serve --bundle my-bundle --data "$STAGE/my-data"; stop serve'
    ),
}


def _before(block: Block) -> Iterator[str]:
    yield from (text for entry, text in BEFORE.items() if block.begins(*entry))


@pytest.fixture(scope="module")
def hub() -> Iterator[HubStub]:
    """The demo's weights under the name that the pages use."""
    with HubStub() as stub:
        stub.add(MODEL, ROOT / "demo" / "weights")
        yield stub


def write_pictures(folder: Path) -> None:
    """Draw the pictures that pages speak of, each of another colour, so that each has a vector of its own."""
    names = ["2024/beach.jpg", "2024/dog.jpg", "2023/cat.jpg", "2023/bicycle.jpg", "2023/night.jpg"]
    for number, name in enumerate(
        [f"home/{place}/{each}" for place in ("photos", "Pictures", "pets") for each in names]
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PillowImage.new("RGB", (64, 48), ((number * 53) % 256, (number * 97) % 256, (number * 151) % 256)).save(path)
    for name in ("cat.jpg", "sofa.jpg"):
        shutil.copyfile(folder / "home/photos/2023/cat.jpg", folder / name)


def write_embeddings(folder: Path, server: str) -> None:
    """Write what clip-retrieval and rclip leave behind, with vectors of the model that the server has."""
    paths = sorted((folder / "home/photos").rglob("*.jpg"))
    with Client(server) as client:
        outcomes = client.embed([Image(path.read_bytes()) for path in paths]).outcomes
    vectors = np.stack([outcome.vector for outcome in outcomes if outcome.vector is not None])  # (pictures, dim)
    (folder / "embeddings_folder/img_emb").mkdir(parents=True)
    np.save(folder / "embeddings_folder/img_emb/img_emb_0.npy", vectors.astype(np.float16))
    lines = [f'{{"image_path": "{path}", "caption": "{path.stem}"}}\n' for path in paths]
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    database = folder / "home/.local/share/rclip/db.sqlite3"
    database.parent.mkdir(parents=True)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE images (filepath TEXT, vector BLOB, deleted BOOLEAN)")
        rows = [(str(path), vector.tobytes(), None) for path, vector in zip(paths, vectors, strict=True)]
        connection.executemany("INSERT INTO images VALUES (?, ?, ?)", rows)
    connection.close()


def script_of(page: str, blocks: list[Block], folder: Path) -> str:
    """Return a page as a script that says on stderr which block it is at."""
    parts = [PRELUDE, BEGINNINGS.get(page, "")]
    for number, block in enumerate(blocks):
        if not is_run(block):
            continue
        text = block.script()
        for place in MACHINE_FOLDERS:
            text = text.replace(place, f"{folder}{place}")
        parts += [f'echo ">>> {page}:{block.line} after $SECONDS s" >&2', *_before(block)]
        if block.language == "python":
            path = folder / f"block_{number}.py"
            path.write_text(text, encoding="utf-8")
            parts.append(f'sed "s/localhost:50051/$CLIP_SEARCH_SERVER/" {shlex.quote(str(path))} | python -')
        else:
            parts.append(text.replace("localhost:50051", "$CLIP_SEARCH_SERVER"))
    return "\n".join(parts)


def run_session(script: str, environment: dict[str, str]) -> None:
    """Run a script to its end, expect success, and leave nothing of it running."""
    process = subprocess.Popen(
        ["bash", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS_MAX)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, output


@pytest.fixture
def session(bundle: Path, hub: HubStub, tmp_path: Path, cache_home: Path) -> Iterator[Callable[[Path], None]]:
    """Runs a page, beside a server for those that start none themselves."""
    with ExitStack() as stack:

        def serve() -> str:
            options = ["--thumbnails"]
            started = ServerProcess.start(bundle, tmp_path / "served", log=tmp_path / "served.log", options=options)
            return stack.enter_context(started).address

        def run_page(page: Path) -> None:
            name = page.relative_to(ROOT).as_posix()
            write_pictures(tmp_path)
            shutil.copytree(bundle, tmp_path / "my-bundle")
            server = "" if name in WITH_SERVERS_OF_THEIR_OWN else serve()
            environment = {
                **os.environ,
                **hub.environment(tmp_path / "hub"),
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "STAGE": str(tmp_path),
                "HOME": str(tmp_path / "home"),
                "XDG_CACHE_HOME": str(cache_home),
                "BROWSER": "true",
                "CLIP_SEARCH_SERVER": server,
            }
            if name in PREPARATIONS:
                PREPARATIONS[name](tmp_path, server)
            run_session(script_of(name, blocks_of(page), tmp_path), environment)

        yield run_page


def prepare_readme(folder: Path, server: str) -> None:
    """Nothing is exported yet."""
    del server
    shutil.rmtree(folder / "my-bundle")


def prepare_operations(folder: Path, server: str) -> None:
    """The example settings are in place."""
    del server
    (folder / "etc/clip-search").mkdir(parents=True)
    shutil.copyfile(ROOT / "docs/operations/serve.toml", folder / "etc/clip-search/serve.toml")


def prepare_terminal(folder: Path, server: str) -> None:
    """Archives and a list of pictures lie about."""
    del server
    shutil.make_archive(str(folder / "holiday"), "zip", folder / "home/photos/2024")
    shutil.make_archive(str(folder / "scans"), "gztar", folder / "home/photos/2023")
    (folder / "pictures.csv").write_text("path,caption,year\ncat.jpg,a cat on a sofa,2023\n", encoding="utf-8")


PREPARATIONS: dict[str, Callable[[Path, str], None]] = {
    "README.md": prepare_readme,
    "docs/export.md": prepare_readme,
    "docs/migration.md": write_embeddings,
    "docs/operations.md": prepare_operations,
    "docs/terminal.md": prepare_terminal,
}


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(map(is_run, blocks_of(page)))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_commands_of_a_page_run(page: Path, session: Callable[[Path], None]) -> None:
    """One after the other, each ending with 0."""
    session(page)


@pytest.mark.parametrize(
    "script", ["false", "clip-search no-such-command", "clip-search serve --bundle no-such-folder"]
)
def test_a_command_that_fails_is_noticed(script: str, tmp_path: Path) -> None:
    """In the middle of a session too, and among what goes on behind it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with pytest.raises(AssertionError):
        run_session(f"{PRELUDE}\n{script}\ntrue", {**os.environ, "PATH": path, "STAGE": str(tmp_path)})
