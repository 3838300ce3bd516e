"""Regenerates the Python code of the public API from `proto/`, or checks that what is committed is up to date.

    python scripts/generate_protos.py            write client/clip_search/v1/*_pb2*.py*
    python scripts/generate_protos.py --check    change nothing; exit 1 and name the files that differ

It needs grpcio-tools and mypy-protobuf from the development set-up. It knows nothing about linting the protos or about
breaking changes: `buf` does both.
"""

import argparse
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO_FOLDER = ROOT / "proto"
PACKAGE_FOLDER = Path("clip_search") / "v1"
GENERATED_PATTERN = "*_pb2*.py*"


def generate(target: Path) -> None:
    """Write the generated modules and type stubs of every API proto below `target`.

    Raises:
        SystemExit: protoc refused a file; it has printed why.
    """
    sources = sorted((PROTO_FOLDER / PACKAGE_FOLDER).glob("*.proto"))
    with_services = [path for path in sources if "\nservice " in path.read_text(encoding="utf-8")]
    _run_protoc(sources, f"--python_out={target}", f"--mypy_out=quiet:{target}")
    _run_protoc(with_services, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}")


def _run_protoc(sources: list[Path], *outputs: str) -> None:
    plugins = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"--proto_path={PROTO_FOLDER}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        *outputs,
        *map(str, sources),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed; its messages are above")


def generated_files(folder: Path) -> dict[str, bytes]:
    """Return the generated files of `folder`, name to content."""
    return {path.name: path.read_bytes() for path in folder.glob(GENERATED_PATTERN)}


def check(committed: Path, fresh: Path) -> int:
    """Compare two folders of generated files, print the names that differ, and return the exit status."""
    old, new = generated_files(committed), generated_files(fresh)
    differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    for name in differing:
        print(f"{committed / name}: not what `make protos` generates", file=sys.stderr)
    return 1 if differing else 0


def replace(committed: Path, fresh: Path) -> None:
    """Make `committed` hold exactly the generated files of `fresh`; other files stay."""
    for name in generated_files(committed):
        (committed / name).unlink()
    for name in generated_files(fresh):
        shutil.copyfile(fresh / name, committed / name)


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Regenerate the Python code of the public API.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the committed code is stale")
    only_check = parser.parse_args().check
    committed = ROOT / "client" / PACKAGE_FOLDER
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / PACKAGE_FOLDER
        if only_check:
            return check(committed, fresh)
        replace(committed, fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
