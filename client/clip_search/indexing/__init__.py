"""Brings pictures from folders, archives and lists to a server: found, left out where unchanged, sent.

    found.py        what a source gives: pictures that can be read, and what cannot be used
    naming.py       which names are pictures, and which names inside archives and lists are safe
    sources.py      from the paths that were given to sources
    folders.py      a folder with everything below it, or one file
    zips.py         a zip archive
    tars.py         a tar archive, compressed or not
    lists.py        a list of pictures with captions and attributes; `tables.py` reads its rows
    values.py       text to typed attributes
    photo_facts.py  date, camera and size out of a picture's own bytes
    unchanged.py    leaves out what the server has already
    read_ahead.py   reads pictures before they are needed, so many and no more
    run.py          joins all of it and keeps the tally
    pruning.py      deletes the items whose pictures have vanished

Nothing here prints or knows of terminals.
"""
