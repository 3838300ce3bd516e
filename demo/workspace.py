"""Sets up a server with the demo model and the sample pictures, through the project's own programs.

A workspace is a folder with everything a run makes: the bundle, the server's data and its log. The sample pictures are
shared by all workspaces of a checkout. Knows nothing of searching and measuring.

    .demo/samples/       the pictures, see `demo.samples`; kept from run to run
    .demo/RUN/bundle/    the demo model, exported anew for each run
    .demo/RUN/data/      the server's collections, emptied for each run
    .demo/RUN/server.log
    .demo/RUN/page.log   of the web page, where there is one
    .demo/RUN/lock       held while a run uses the folder
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clip_search.client import Client
from clip_search.contents import Item
from clip_search.results import StoredItem
from demo.samples import Sample, draw_samples
from demo.server_process import ServerProcess, program

CHECKOUT = Path(__file__).resolve().parent.parent
ROOT = CHECKOUT / ".demo"
#: So small that 1,600 pictures fill several HNSW segments; a real server keeps the default.
SEGMENT_ROWS = 256
_NAMED_AT_A_TIME = 500


class WorkspaceError(Exception):
    """The workspace cannot be used, or a program failed; the message says which."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder of one kind of run."""

    folder: Path

    @property
    def bundle(self) -> Path:
        """The exported demo model."""
        return self.folder / "bundle"

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What the server wrote, all starts of this run together."""
        return self.folder / "server.log"

    def export_bundle(self, model: str = "demo") -> None:
        """Export an embedded demo model, ``demo`` or ``demo-vit``, to FP16 ONNX with `clip-search export`."""
        run_program("clip-search", "export", model, shown(self.bundle))

    def start_server(
        self, *, listen: str = "127.0.0.1:0", thumbnails: bool = False, options: Sequence[str] = ()
    ) -> ServerProcess:
        """Start `clip-search serve` on the bundle and the data of this workspace, with further options of it."""
        options = ("--segment-rows", str(SEGMENT_ROWS), *(["--thumbnails"] if thumbnails else []), *options)
        return ServerProcess.start(self.bundle, self.data, log=self.log, listen=listen, options=options)

    def start_page(self, server: str, *, listen: str = "127.0.0.1:0") -> ServerProcess:
        """Start `clip-search gallery` for the server at an address; its own address is a URL."""
        pictures = ROOT / "samples" / "pictures"
        arguments = ("gallery", "--server", server, "--listen", listen, "--pictures", str(pictures))
        return ServerProcess.launch(arguments, log=self.folder / "page.log")


@contextmanager
def fresh_workspace(name: str, root: Path = ROOT) -> Iterator[Workspace]:
    """Give an empty workspace that no other run uses meanwhile.

    Raises:
        WorkspaceError: when another run is using it.
    """
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkspaceError(f"another run is using {shown(folder)}: stop it first, then try again") from None
        workspace = Workspace(folder)
        for leftover in (workspace.bundle, workspace.data):
            shutil.rmtree(leftover, ignore_errors=True)
        workspace.log.write_text("")
        yield workspace


def sample_pictures(root: Path = ROOT) -> tuple[list[Sample], Path]:
    """Return the sample pictures' list and folder, drawing them when they are not there yet."""
    folder = root / "samples"
    return draw_samples(folder), folder / "pictures"


def index_pictures(address: str, pictures: Path) -> None:
    """Store all pictures of a folder in the server at `address` with `search_client index`."""
    run_program("search_client", "--server", address, "index", shown(pictures))


def name_pictures(address: str, samples: Sequence[Sample]) -> None:
    """Give each stored sample picture its name as caption and text, and its group and subgroup as attributes.

    Raises:
        ClipSearchError: the server does not answer, or does not have them.
    """
    by_file = {sample.file: sample for sample in samples}
    with Client(address) as client:
        token = ""
        while True:
            page = client.list_items(page_size=_NAMED_AT_A_TIME, page_token=token)
            named = [_named(item, by_file[str(item.attributes["file_name"])]) for item in page.items]
            for outcome in client.upsert(named) if named else ():
                if outcome.error is not None:
                    raise outcome.error
            token = page.next_page_token
            if not token:
                return


def _named(item: StoredItem, sample: Sample) -> Item:
    facts = {"caption": sample.name, "group": sample.group, "subgroup": sample.subgroup}
    return Item(item.id, None, {**item.attributes, **facts}, text=sample.name)  # the vector and the thumbnail stay


def run_program(name: str, *arguments: str) -> None:
    """Run one of the project's programs in the checkout, showing the command line and what it prints.

    Raises:
        WorkspaceError: when it fails.
    """
    print(f"   $ {' '.join([typed(name), *arguments])}", flush=True)
    code = subprocess.run([program(name), *arguments], cwd=CHECKOUT, check=False).returncode
    if code != 0:
        raise WorkspaceError(f"{name} {arguments[0]} failed with exit code {code}; its message stands above")


def shown(path: Path) -> str:
    """Return `path` as a person in the checkout would type it."""
    return os.path.relpath(path, CHECKOUT) if path.is_relative_to(CHECKOUT) else str(path)


def typed(name: str) -> str:
    """Return how a person in the checkout calls one of the project's programs: by path, where the name is not found."""
    return name if shutil.which(name) else shown(Path(program(name)))


def search_commands(address: str) -> Sequence[str]:
    """Return command lines that a person can try on the server at `address`."""
    client = f"{typed('search_client')} --server {address}"
    return f'{client} search "a red fruit"', f'{client} search "winter clothes" --open', f"{client} stats"
