"""`clip-search up`: from a folder of photos to a page that searches them, in one command.

    up_command.py   the command: the steps in order
    checks.py       what can be known before anything is downloaded
    watching.py     when the photos have changed and are quiet again
    indexing.py     brings what is indexed in line with the folders
    programs.py     the project's other programs as child processes, which never outlive this one
    folders.py      where bundles, data and logs lie

It knows nothing of how anything is done: each step is one of the project's own programs.
"""
