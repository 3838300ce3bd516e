"""Checks, within two seconds, that this machine can set the project up, and names what is missing.

    python3 scripts/prerequisites.py [--without-compiler]

Needed are Python 3.11 or newer with its venv module; and to work on the project a C++ compiler with the Python headers,
because hnswlib, which the tests need, is built from source. The file uses old syntax and the standard library alone, so
that an old Python can run it too. It installs nothing.
"""

import os
import shutil
import sys
import sysconfig

PYTHON_OLDEST = (3, 11)


def missing_parts(with_compiler=True):  # noqa: FBT002 - see above
    # type: (bool) -> list[tuple[str, str]]
    """Return what is missing: a sentence and the line that mends it, each."""
    version = "{}.{}".format(*sys.version_info[:2])
    if sys.version_info < PYTHON_OLDEST:
        sentence = "{} is Python {}; this project needs Python 3.11 or newer.".format(sys.executable, version)
        return [
            (sentence, "apt-get install python3.11 python3.11-venv python3.11-dev, then: make PYTHON=python3.11 ...")
        ]
    missing = []
    if not _can_import("venv") or not _can_import("ensurepip"):
        missing.append(("Python's venv module is missing.", "apt-get install python{}-venv".format(version)))
    if not with_compiler:
        return missing
    if not any(shutil.which(name) for name in _compilers()):
        missing.append(("A C++ compiler is missing (hnswlib is built from source).", "apt-get install g++"))
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        missing.append(
            ("The Python headers are missing ({}).".format(header), "apt-get install python{}-dev".format(version))
        )
    return missing


def _can_import(name):
    # type: (str) -> bool
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def _compilers():
    # type: () -> list[str]
    chosen = os.environ.get("CXX", "").split()
    return chosen[:1] or ["c++", "g++", "clang++"]


def main():
    # type: () -> int
    """Print what is missing; return 1 when something is."""
    missing = missing_parts(with_compiler="--without-compiler" not in sys.argv[1:])
    for sentence, remedy in missing:
        sys.stderr.write("{}\n    {}\n".format(sentence, remedy))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
