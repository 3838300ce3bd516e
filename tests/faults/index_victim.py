"""Processes that write to a collection until they are killed, and say what was acknowledged.

    python -m tests.faults.index_victim FOLDER SEED      one victim
    python -m tests.faults.index_victim                  a nursery (nursery.py) of victims; their words: FOLDER SEED

Lines on stdout, beside the nursery's:

    did WRITER SEQUENCE  a write was acknowledged
    failed WRITER ERROR  a write was refused; the writer stops
    finished             nothing is left to do; the victim waits
"""

import os
import signal
import sys
import threading
from pathlib import Path

from clip_search_server.errors import ClipSearchError
from clip_search_server.index import Collection
from tests.faults.index_history import WRITERS, open_victim, operations
from tests.faults.nursery import nurse, say


def _write(collection: Collection, seed: int, writer: int) -> None:
    for operation in operations(seed, writer):
        try:
            sequence = operation.run(collection)
        except ClipSearchError as error:
            say(f"failed {writer} {error}")
            return
        say(f"did {writer} {sequence}")


def live(folder: Path, seed: int) -> None:
    """Open the collection and make the round's writes, each writer in a thread."""
    collection = open_victim(folder)
    threads = [threading.Thread(target=_write, args=(collection, seed, writer)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say("finished")
    sys.stdin.read() if len(sys.argv) > 1 else signal.pause()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        say(f"born {os.getpid()}")
        live(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        nurse(lambda words: live(Path(words[0]), int(words[1])))
