from pathlib import Path

from clip_search_evaluation.datasets.reading import read_dataset
from demo.caption_tables import write_caption_tables
from demo.evaluation import phrase_queries
from demo.samples import read_table


def test_the_tables_ask_what_the_demo_asks(tmp_path: Path) -> None:
    """Each name is a query with the pictures of that name; each phrase one with all pictures that answer it."""
    samples = read_table()
    (tmp_path / "pictures").mkdir()
    for sample in samples:
        (tmp_path / "pictures" / sample.file).touch()
    write_caption_tables(tmp_path, samples)
    names = read_dataset(tmp_path / "names.csv")
    assert (len(names.pictures), set(names.texts)) == (len(samples), {sample.name for sample in samples})
    assert set(names.classes) == {sample.subgroup.replace("-", " ") for sample in samples}
    phrases = read_dataset(tmp_path / "phrases.jsonl")
    queries, _ = phrase_queries(samples)
    files = {sample.hexcode: sample.file for sample in samples}
    found: dict[str, set[str]] = {}
    for text, picture in phrases.pairs.tolist():
        found.setdefault(phrases.texts[text], set()).add(phrases.pictures[picture].name)
    assert found == {query.text: {files[hexcode] for hexcode in query.answers} for query in queries}
    assert len(phrases.pictures) == len(samples)
