"""Several writers at once; knows nothing of what they write."""

import threading
from collections.abc import Callable

__all__ = ["run_writers"]


def run_writers(count: int, write: Callable[[int], None]) -> None:
    """Run `write(0)`, `write(1)`, … on threads of their own to their end; raise what the first one raised."""
    failures: list[BaseException] = []

    def run(writer: int) -> None:
        try:
            write(writer)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(writer,)) for writer in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
