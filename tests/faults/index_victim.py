"""Processes that write to a collection until they are killed, and say what was acknowledged.

    python -m tests.faults.index_victim FOLDER SEED      one victim
    python -m tests.faults.index_victim                  a nursery: for each line "FOLDER SEED" on stdin, fork a victim

The nursery has everything imported and not one thread, so a victim starts in milliseconds. Lines on stdout:

    born PID             a victim is about to open the collection
    did WRITER SEQUENCE  a write was acknowledged
    failed WRITER ERROR  a write was refused; the writer stops
    finished             nothing is left to do; the victim waits
    dead PID             (nursery) the victim is gone
"""

import os
import signal
import sys
import threading
from pathlib import Path

from clip_search_server.errors import ClipSearchError
from clip_search_server.index import Collection
from tests.faults.index_history import WRITERS, open_victim, operations


def _say(line: str) -> None:
    # One write of a short line is atomic on a pipe, and nothing is left in a buffer when the process dies.
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


def _write(collection: Collection, seed: int, writer: int) -> None:
    for operation in operations(seed, writer):
        try:
            sequence = operation.run(collection)
        except ClipSearchError as error:
            _say(f"failed {writer} {error}")
            return
        _say(f"did {writer} {sequence}")


def live(folder: Path, seed: int) -> None:
    """Open the collection and make the round's writes, each writer in a thread."""
    _say(f"born {os.getpid()}")
    collection = open_victim(folder)
    threads = [threading.Thread(target=_write, args=(collection, seed, writer)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _say("finished")
    sys.stdin.read() if len(sys.argv) > 1 else signal.pause()


def _nurse() -> None:
    for line in sys.stdin:
        folder, seed = line.rsplit(" ", 1)
        pid = os.fork()
        if pid == 0:
            try:
                live(Path(folder), int(seed))
            finally:
                os._exit(1)
        os.waitpid(pid, 0)
        _say(f"dead {pid}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        live(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        _nurse()
