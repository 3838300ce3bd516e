"""The fenced blocks of the pages that people copy from, and what is run of them; knows nothing of servers.

Every block of `PAGES` in `sh`, `bash`, `console`, `python` or no language at all is a command. It is run as it stands
by `tests/system/test_document_commands.py`, or listed in `NOT_RUN` with the reason. A block in another language
(`json`, `yaml`, `text`, …) is only shown.

Decision pages are left out: they are dated records, and their commands belong to the code of their day.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COMMANDS", "NOT_RUN", "PAGES", "ROOT", "Block", "blocks_of", "is_run"]

ROOT = Path(__file__).resolve().parents[1]
DECISIONS = ROOT / "docs" / "decisions"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if DECISIONS not in page.parents),
]
COMMANDS = {"", "bash", "console", "python", "sh"}

_INDEX = "installs from a package index; "
_LOADTEST = "names hosts of one's own; `tests/integration/test_loadtest.py` loads servers with such options"
_EVALUATION = "`tests/integration/test_evaluate.py` evaluates such models"
_LEADING = "--expect-workers 2 --bind 10.0.0.5:5557"
_STEPS = "steps of `.ci/run`"

#: What is not run here: by page and how the block begins, the reason; where another test covers it, the name of that.
NOT_RUN: dict[tuple[str, str], str] = {
    ("README.md", "make demo"): _STEPS + ", and `make serve` is the same set-up, staying up",
    ("README.md", "pip install '.[photos]'"): _INDEX + "`tests/system/test_installation.py` installs the client",
    ("CONTRIBUTING.md", "make setup"): _STEPS,
    ("CONTRIBUTING.md", "make format"): "changes the checkout; `make check`, a step of `.ci/run`, says if it would",
    ("CONTRIBUTING.md", "make bench"): "minutes to hours, and PyTorch",
    ("docs/clients.md", "package=example.com/you/"): "needs Go's plugins of protoc",
    ("docs/clients.md", "protoc -Iproto --java_out"): "needs Java's plugin of protoc",
    ("docs/export.md", "pip install '.[export,optimum]'"): (
        _INDEX + "PyTorch; `tests/parity/test_tracing.py` exports that way"
    ),
    **{
        ("docs/loadtests.md", f'make loadtest ARGS="--host search.example.org:50051 {option}'): _LOADTEST
        for option in ("--ca", "--processes", f"{_LEADING} --users", f"{_LEADING} --pictures")
    },
    ("docs/loadtests.md", ".venv/bin/python -m locust"): _LOADTEST,
    ("docs/migration.md", "python <<'END'"): "runs where clip-retrieval is installed: it reads Parquet with pandas",
    ("docs/operations.md", "clip-search key new --name web"): (
        "names a host of one's own; `tests/system/test_security_page.py` opens a server with such keys and certificates"
    ),
    ("docs/operations.md", 'python3 -m pip install "clip-search[server,tracing]"'): (
        "needs a container engine; `tests/integration/test_traces.py` sends traces to a collector"
    ),
    ("docs/operations.md", "python3 -m pip wheel"): _INDEX + "`tests/system/test_containers.py` makes such wheels",
    ("docs/operations.md", "python3 -m venv /opt"): _INDEX + "`tests/system/test_containers.py` installs such wheels",
    (
        "docs/operations.md",
        "clip-search reembed",
    ): "`tests/integration/test_several_models.py` does it with the same names",
    ("docs/operations.md", "useradd --system"): (
        "changes the machine; `tests/system/test_service_unit.py` asks systemd about the unit"
    ),
    ("docs/operations.md", "docker build"): (
        "needs a container engine; `tests/system/test_containers.py` runs the file's commands"
    ),
    ("docs/operations/security.md", "clip-search serve"): (
        "names a host of one's own; `tests/system/test_security_page.py` starts a server with the same options"
    ),
    ("docs/operations/security.md", "openssl req -x509"): "run by `tests/system/test_security_page.py`",
    ("docs/operations/security.md", "openssl req -newkey"): "run by `tests/system/test_security_page.py`",
    ("docs/operations/security.md", "clip-search key new"): "run by `tests/system/test_security_page.py`",
    ("docs/understanding.md", "pip install '.[evaluation]'"): _INDEX + _EVALUATION,
    ("docs/understanding.md", "clip-search evaluate .demo"): "needs what `make serve` draws; " + _EVALUATION,
    ("docs/troubleshooting.md", "pip uninstall onnxruntime"): "changes the environment, and needs a CUDA device",
}


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of commands: where its first line stands, and what it holds."""

    page: str
    line: int
    language: str
    text: str

    def begins(self, page: str, beginning: str) -> bool:
        """Tell whether this is the block of `page` that begins so."""
        return self.page == page and self.text.startswith(beginning)

    def script(self) -> str:
        """Return what is to be run: of a console, the lines behind `$`."""
        if self.language != "console":
            return self.text
        return "".join(line.removeprefix("$ ") for line in self.text.splitlines(keepends=True) if line.startswith("$ "))


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of commands of a page, in their order."""
    return list(_blocks(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8")))


def is_run(block: Block) -> bool:
    """Tell whether the session of its page runs a block."""
    return not any(block.begins(page, beginning) for page, beginning in NOT_RUN)


def _blocks(page: str, text: str) -> Iterator[Block]:
    for found in re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        if found[2] in COMMANDS:
            line = text.count("\n", 0, found.start(3)) + 1
            yield Block(page, line, found[2], re.sub(rf"(?m)^{found[1]}", "", found[3]))
