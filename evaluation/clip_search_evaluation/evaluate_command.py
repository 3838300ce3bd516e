"""`clip-search evaluate`: options in, a report out; knows nothing of how things are measured."""

from pathlib import Path

import click
from rich import box
from rich.table import Table
from rich.text import Text

from clip_search.cli.output import CommandError, print_note, safe_text
from clip_search.cli.progress import ProgressDisplay
from clip_search.cli.session import connect, connect_to
from clip_search.cli.settings import Settings, pass_settings
from clip_search.cli.standalone import StandaloneCommand
from clip_search.cli.tables import console
from clip_search.client import Client
from clip_search_evaluation.datasets.reading import read_dataset
from clip_search_evaluation.errors import EvaluationError
from clip_search_evaluation.evaluating import Connect, Options, evaluate_subjects
from clip_search_evaluation.figures import Evaluation
from clip_search_evaluation.report.document import document_of, document_text
from clip_search_evaluation.report.page import render_report
from clip_search_evaluation.report.summary import summary_rows
from clip_search_evaluation.subjects import find_subjects

__all__ = ["evaluate"]

_LEFT_OUT_SHOWN = 5


@click.command("evaluate", cls=StandaloneCommand, without=frozenset({"json"}))
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--images",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="What the pictures of a file are relative to.  [default: the folder of the file]",
)
@click.option("--split", metavar="NAME", default="test", show_default=True, help="Split of Karpathy's JSON.")
@click.option(
    "--compare",
    "compared",
    metavar="NAME",
    multiple=True,
    help="Measure this model or collection of the server too, and compare. May be repeated.",
)
@click.option(
    "--template",
    "templates",
    metavar="TEXT",
    multiple=True,
    help="Sentence with {} where the class goes: a further set of prompts. May be repeated.",
)
@click.option(
    "--damaged-pictures",
    metavar="N",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    help="Pictures that the robustness curves are measured on; 0 leaves the curves out.",
)
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all figures to this file.",
)
@click.option(
    "--html",
    "html_path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a report for browsers to this file.",
)
@pass_settings
def evaluate(
    settings: Settings,
    *,
    data: Path,
    images: Path | None,
    split: str,
    compared: tuple[str, ...],
    templates: tuple[str, ...],
    damaged_pictures: int,
    json_path: Path | None,
    html_path: Path | None,
) -> None:
    """Measure how well a model finds and names the pictures of DATA.

    DATA is a table of pictures with captions, classes or both (.csv, .tsv, .jsonl), Karpathy's JSON file of COCO or
    Flickr30k, or a folder whose subfolders are named by class. The running server embeds everything, so that what is
    served is measured; nothing is stored in it. With --collection, the texts are searched for in that collection too.

    \b
        clip-search evaluate captions.csv --html report.html
        clip-search evaluate pets/ --model b32 --compare l14 --json figures.json
    """  # noqa: D301  # click takes \b as: keep these lines as they are
    for template in templates:
        if "{}" not in template:
            raise click.BadParameter(f"{template!r} has no {{}} where the class goes", param_hint="--template")
    try:
        dataset = read_dataset(data, images=images, split=split)
        with connect(settings) as client:
            info, collections = client.server_info(), client.list_collections()
        subjects = find_subjects(
            info.models, collections, model=settings.model, collection=settings.collection, compare=compared
        )
        options = Options(templates=templates, damaged_pictures=damaged_pictures)
        with _Display() as display:
            evaluation = evaluate_subjects(
                dataset, subjects, connect=_connector(settings), limits=info.limits, options=options, watch=display
            )
    except EvaluationError as error:
        raise CommandError(str(error), code="EVALUATION") from error
    _print_summary(evaluation)
    if json_path is not None:
        _write(json_path, document_text(document_of(evaluation, settings.server, info.version)))
    if html_path is not None:
        _write(html_path, render_report(evaluation, server=settings.server, version=info.version))


def _connector(settings: Settings) -> Connect:
    def connected(collection: str, model: str) -> Client:
        return connect_to(settings, collection, model)

    return connected


class _Display(ProgressDisplay):
    """The bar of whatever is under way."""

    def __init__(self) -> None:
        super().__init__("measuring", 0, as_json=False)

    def begin(self, description: str, total: int) -> None:
        """Begin a new bar."""
        self._progress.reset(self._task, description=safe_text(description), total=total)

    def passed(self, count: int) -> None:
        """Count parts as done."""
        self._progress.update(self._task, advance=count)


def _print_summary(evaluation: Evaluation) -> None:
    """Print a line for each figure, and a column for each subject."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    for each in evaluation.subjects:
        table.add_column(Text(safe_text(each.subject.name)), justify="right")
    for name, values in summary_rows(evaluation):
        table.add_row(name, *values)
    console().print(table)
    for name, reason in list(evaluation.left_out.items())[:_LEFT_OUT_SHOWN]:
        print_note(f"left out: {name}: {reason}")
    if (more := len(evaluation.left_out) - _LEFT_OUT_SHOWN) > 0:
        print_note(f"left out: {more:,} more")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}", code="FILE") from error
    print_note(f"wrote {path}")
