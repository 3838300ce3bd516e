"""How well a served model finds and names pictures: `clip-search evaluate`, itself a plain client of the server.

    evaluate_command.py   `clip-search evaluate`
    evaluating.py         the steps in order
    datasets/             what is evaluated on: pictures with captions, classes or both
    subjects.py           what of a server is measured: models, collections
    embedding.py          pictures and texts to vectors through `Embed`, in bounded chunks
    searching.py          texts searched for through `Search`
    scoring.py            how the server makes probabilities of cosines
    metrics/              the figures, in NumPy alone, each with the source of its definition
    retrieval.py          figures of retrieval
    prompts.py            sentences for classes: the paper's
    zero_shot.py          figures of zero-shot classification, and its calibration
    comparison.py         two subjects on the same cases
    damage.py             pictures and texts damaged by degrees
    robustness.py         curves over that damage
    space.py              figures of the space that pictures and texts share
    figures.py            all of these as plain values
    report/               JSON, page and terminal
    watching.py           whom the work tells how far it is
    errors.py             what goes wrong

It knows nothing of models, graphs and indexes, and imports nothing of the project but the client.
"""
