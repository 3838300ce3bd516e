import os
import sys
import threading

import pytest

from clip_search_server.priority import run_nicely


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows the priority of a thread")
def test_the_work_and_the_threads_it_starts_stand_back() -> None:
    """Their niceness is raised by so much, and that of the thread that waits for them is not."""
    before = _niceness()
    found: list[int] = []

    def work() -> int:
        thread = threading.Thread(target=lambda: found.append(_niceness()))
        thread.start()
        thread.join()
        return _niceness()

    assert run_nicely(work, niceness=3, name="work") == min(before + 3, 19)
    assert found == [min(before + 3, 19)]
    assert _niceness() == before


def test_what_the_work_raises_is_raised() -> None:
    """A failure comes to who asked for the work."""
    with pytest.raises(ZeroDivisionError):
        run_nicely(lambda: 1 // 0, niceness=1, name="work")
