"""The documents' blocks of commands: each is run by a test or listed with a reason, and can be read by its program."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.documents import COMMANDS, NOT_RUN, PAGES, ROOT, Block, blocks_of

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
#: Languages of blocks that are shown and not run.
SHOWN = {"dockerfile", "ini", "java", "javascript", "js", "json", "promql", "proto", "text", "toml", "yaml"}


def name(block: Block) -> str:
    """Where a block stands."""
    return f"{block.page}:{block.line}"


def test_every_fence_says_what_it_holds() -> None:
    """A block in a language that nobody knows would be neither run nor looked at."""
    for page in PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) % 2 == 0, page
        assert set(fences[::2]) <= COMMANDS | SHOWN, page


def test_what_is_not_run_is_there() -> None:
    """Each entry of the table is the beginning of one block; so none is left behind when a page changes."""
    found = [sum(block.begins(*entry) for block in BLOCKS) for entry in NOT_RUN]
    assert dict(zip(NOT_RUN, found, strict=True)) == dict.fromkeys(NOT_RUN, 1)
    assert len(BLOCKS) > 1.5 * len(NOT_RUN)


def test_tests_that_run_a_block_elsewhere_exist() -> None:
    """Where a reason names a test, the file is there."""
    named = {path for reason in NOT_RUN.values() for path in re.findall(r"`(tests/[\w/]+\.py)`", reason)}
    assert len(named) >= 4
    assert {path for path in named if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("block", BLOCKS, ids=name)
def test_a_block_can_be_read(block: Block) -> None:
    """By Python or by the shell, whether it is run or not."""
    if block.language == "python":
        ast.parse(block.script())
    else:
        subprocess.run(["sh", "-n", "-c", block.script()], check=True, timeout=20)


def test_every_make_target_of_the_documents_exists() -> None:
    """In blocks, in tables and in sentences."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?:`|^|\s)make ([a-z-]+)(?=[` ]|$)(?=[^\n]*(?:`|$))", _commands_in(text), re.MULTILINE))
    assert len(named) >= 10
    assert named <= targets


def _commands_in(text: str) -> str:
    """What stands in backticks and in blocks, a line each."""
    inline = re.findall(r"`([^`\n]+)`", text)
    return "\n".join([*inline, *(line for block in BLOCKS for line in block.text.splitlines())])


def test_every_link_between_the_documents_leads_somewhere() -> None:
    """To a file that is there and, where it names a section, to a heading of it."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, section = target.partition("#")
            file = page if not path else (page.parent / path).resolve()
            assert file.exists(), f"{page.name}: {target}"
            if section:
                assert section in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """What a page's headings are linked by."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
