"""Programs as child processes: what their end means, and that no interruption is lost."""

import signal
import subprocess
from typing import Any

import pytest

from clip_search_photos import programs
from clip_search_photos.programs import ProgramError, ask, run


def _stand_in(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let every program be this piece of Python."""
    command = programs._command("clip-search", [])
    monkeypatch.setattr(programs, "_command", lambda *_: [command[0], "-c", program])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_a_program_starts_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """It comes once the process is there: Python drops what a handler raises amid a fork."""
    begun: list[str] = []

    class Forking:
        def __init__(self, *_arguments: Any, **_settings: Any) -> None:
            signal.raise_signal(number)
            begun.append("to the end")

        def communicate(self) -> None:
            pytest.fail("the interruption was lost")

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Forking)
    previous = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run("clip-search", ["models"])
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, previous)
    assert begun == ["to the end"]


def test_what_a_program_prints_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its exit code where it is run for what it does."""
    _stand_in(monkeypatch, "print('said'); raise SystemExit(0)")
    assert ask("clip-search", ["models"]) == "said\n"
    _stand_in(monkeypatch, "raise SystemExit(3)")
    assert run("clip-search", ["models"]) == 3
    with pytest.raises(ProgramError, match="clip-search models … failed, exit code 3"):
        ask("clip-search", ["models"])


def test_a_program_that_was_killed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name and signal, for it could say nothing itself; where memory may have run out, that is asked."""
    _stand_in(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ProgramError, match="clip-search export was ended by SIGKILL: is there enough memory"):
        run("clip-search", ["export"])
