"""The web page: a small gateway between browsers and a clip-search server, which is itself a plain client of it.

    commands.py    `clip-search gallery`
    app.py         what is answered at which address
    access.py      who may ask, and the headers that keep a page to itself
    questions.py   an address's query becomes a search
    calls.py       calls to the server, on threads, and whether it is there
    answers.py     what was found, as JSON
    shelf.py       small pictures, fetched a page at a time and kept for a while
    pictures.py    whole pictures: of files in allowed folders, or kept by the server
    uploads.py     pictures that a browser sent to search by
    problems.py    errors as JSON
    assets.py      the page's own files, in `page/`: HTML, CSS and JavaScript modules as they are served

It knows nothing of models, vectors and indexes, holds nothing that would be missed, and imports nothing of the server.
"""
