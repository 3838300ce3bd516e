"""What an evaluation found, told: to programs as JSON, to people as a page and as lines of a terminal.

    document.py      the JSON document
    summary.py       the figures in short, for a terminal
    page.py          the HTML page: which sections, in which order
    tables.py        its tables
    plots.py         its drawings, as SVG
    failures.py      pictures of what went wrong
    thumbnails.py    small copies of pictures
    report.css       what the page's own style lacks

It computes no figures.
"""
