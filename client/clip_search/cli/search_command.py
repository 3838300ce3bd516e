"""`search_client search`: composes a query, prints what is found, and shows it as a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click

from clip_search.cli import gallery
from clip_search.cli.documents import hit_document
from clip_search.cli.filter_option import filter_option
from clip_search.cli.output import print_document, print_note
from clip_search.cli.session import connect, read_image
from clip_search.cli.settings import Settings, client_command, pass_settings
from clip_search.cli.tables import print_ranking
from clip_search.client import Ranking
from clip_search.contents import ItemId, Part, Text
from clip_search.filter_writer import text_of
from clip_search.filters import Filter
from clip_search.results import Hit, SearchResults

__all__ = ["search"]

# Half as strong as what is looked for: at full strength it takes away most of what any two texts have in common, and
# what is left points nowhere.
_NOT_WEIGHT = -0.5


@client_command("search")
@click.argument("text", nargs=-1)
@click.option(
    "--image",
    "images",
    metavar="FILE",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Look for what is like this picture. May be repeated.",
)
@click.option("--like", "likes", metavar="ID", multiple=True, help="Look for what is like this item. May be repeated.")
@click.option(
    "--not",
    "unwanted",
    metavar="TEXT",
    multiple=True,
    help=f"Steer away from these words (weight {_NOT_WEIGHT}; all else has weight 1). May be repeated.",
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=10, show_default=True, help="Hits at most.")
@filter_option("Only items whose attributes match,")
@click.option(
    "--ranking",
    type=click.Choice(get_args(Ranking)),
    default="vector",
    show_default=True,
    help="Order by score, by how well the items' texts match the words, or by both.",
)
@click.option("--exact", is_flag=True, help="Compare with every item instead of using the approximate index.")
@click.option(
    "--min-score", metavar="X", type=click.FloatRange(-1, 1), help="Only hits with at least this score (cosine)."
)
@click.option(
    "--gallery",
    "gallery_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the hits as a page with everything inside it.",
)
@click.option("--open", "open_page", is_flag=True, help="Show the hits in the browser.")
@pass_settings
def search(
    settings: Settings,
    *,
    text: tuple[str, ...],
    images: tuple[Path, ...],
    likes: tuple[str, ...],
    unwanted: tuple[str, ...],
    limit: int,
    filter_: Filter | None,
    ranking: Ranking,
    exact: bool,
    min_score: float | None,
    gallery_file: Path | None,
    open_page: bool,
) -> None:
    """Find pictures by words, by pictures, or by both.

    Several words need no quotes. Words, --image and --like can be mixed: what is found is like all of them together.

    \b
        search_client search a red bicycle
        search_client search --image sofa.jpg "in leather" --not "with cushions"
        search_client search --like photos/2024/beach.jpg --open
        search_client search a red bicycle --filter 'year>=2020 and not tag in (dog, cat)'
    """  # noqa: D301  # click takes \b as: keep these lines as they are
    words = " ".join(text).strip()
    if not (words or images or likes):
        raise click.UsageError("say what to look for: words, --image FILE or --like ID")
    parts = _parts(words, images, likes, unwanted)
    with connect(settings) as client:
        found = client.search(parts, limit=limit, filter=filter_, ranking=ranking, exact=exact, min_score=min_score)
        if settings.json:
            asked: dict[str, Any] = {
                "parts": _queried(words, images, likes, unwanted),
                "limit": limit,
                "filter": None if filter_ is None else text_of(filter_),
                "ranking": ranking,
                "exact": exact,
                "min_score": min_score,
            }
            print_document(_document(asked, found))
        else:
            _print_hits(found.hits)
        if gallery_file is not None or open_page:
            query = _in_words(words, images, likes, unwanted)
            gallery.show(client, query, found.hits, file=gallery_file, open_page=open_page)


def _parts(words: str, images: Sequence[Path], likes: Sequence[str], unwanted: Sequence[str]) -> list[Part]:
    return [
        *([Part(Text(words))] if words else []),
        *(Part(read_image(path)) for path in images),
        *(Part(ItemId(item_id)) for item_id in likes),
        *(Part(Text(each), _NOT_WEIGHT) for each in unwanted),
    ]


def _queried(words: str, images: Sequence[Path], likes: Sequence[str], unwanted: Sequence[str]) -> list[dict[str, Any]]:
    """Give the parts of the query as JSON."""
    return [
        *([{"text": words, "weight": 1.0}] if words else []),
        *({"image": str(path), "weight": 1.0} for path in images),
        *({"item_id": item_id, "weight": 1.0} for item_id in likes),
        *({"text": each, "weight": _NOT_WEIGHT} for each in unwanted),
    ]


def _in_words(words: str, images: Sequence[Path], likes: Sequence[str], unwanted: Sequence[str]) -> str:
    """Give the query as a heading."""
    wanted = [words] if words else []
    wanted += [f"like {path.name}" for path in images]
    wanted += [f"like {item_id}" for item_id in likes]
    return " + ".join(wanted) + "".join(f", not {each}" for each in unwanted)


def _document(query: dict[str, Any], found: SearchResults) -> dict[str, Any]:
    return {
        "query": query,
        "hits": [hit_document(rank, hit) for rank, hit in enumerate(found.hits, 1)],
        "sequence": found.sequence,
        "space_id": found.space_id,
    }


def _print_hits(hits: Sequence[Hit]) -> None:
    if hits:
        print_ranking([(hit.score, hit.id, _path(hit)) for hit in hits], [hit.relevance for hit in hits])
    else:
        print_note("nothing found")


def _path(hit: Hit) -> str:
    path = hit.attributes.get("path")
    return path if isinstance(path, str) else ""
