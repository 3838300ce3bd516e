"""The `search_client` program: what the client can do, at a terminal and in scripts.

    program.py        the program itself: lazy commands, errors, exit codes
    settings.py       the options that every command takes
    output.py         safe text and JSON for terminals and pipes
    documents.py      the shapes of the JSON documents
    session.py        a client from the settings
    gallery.py        a page of hits
    index_display.py  what is seen of `index`: bar, failures, tally
    …_command.py      one command each, or a few that belong together

It talks to a server through `clip_search.client` alone.
"""

from clip_search.cli.program import main

__all__ = ["main"]
