"""`search_client classify`: asks which words fit a picture (zero-shot classification)."""

from pathlib import Path

import click

from clip_search.cli.documents import classification_document
from clip_search.cli.output import print_document
from clip_search.cli.session import connect, read_image
from clip_search.cli.settings import Settings, client_command, pass_settings
from clip_search.cli.tables import print_bars

__all__ = ["classify"]

# Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021), section 3.1.4: models
# see few single words in training, so that a sentence around the label does better than the label alone.
_DEFAULT_TEMPLATES = ("a photo of a {}",)
# The seven of the authors' eighty sentences for ImageNet that served best together, found by adding one after the other
# (the paper's code, notebooks/Prompt_Engineering_for_ImageNet.ipynb). "itap" is short for "I took a picture".
_ENSEMBLE = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


@client_command("classify")
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("labels", metavar="LABEL...", nargs=-1, required=True)
@click.option(
    "--template",
    "templates",
    metavar="TEXT",
    multiple=True,
    help=f"Sentence with {{}} where the label goes. May be repeated: labels are averaged over all of them. "
    f"'{{}}' stands for the label alone.  [default: {_DEFAULT_TEMPLATES[0]!r}]",
)
@click.option(
    "--ensemble",
    is_flag=True,
    help=f"Average over the {len(_ENSEMBLE)} sentences that CLIP's authors found to serve best together.",
)
@pass_settings
def classify(
    settings: Settings, *, image: Path, labels: tuple[str, ...], templates: tuple[str, ...], ensemble: bool
) -> None:
    """Tell which words fit a picture best.

    The shares add up to 100%, so give labels that cover what the picture might show.

    \b
        search_client classify cat.jpg cat dog "red panda"
        search_client classify scan.png invoice letter --template "a scan of a {}"
        search_client classify cat.jpg cat dog "red panda" --ensemble
    """  # noqa: D301  # click takes \b as: keep these lines as they are
    used = (*templates, *(_ENSEMBLE if ensemble else ())) or _DEFAULT_TEMPLATES
    with connect(settings) as client:
        result = client.classify(read_image(image), labels, used)
    ranked = sorted(result.classifications, key=lambda each: -each.probability)
    if settings.json:
        print_document(
            {
                "image": str(image),
                "templates": list(used),
                "scoring": result.scoring,
                "classifications": [classification_document(each) for each in ranked],
                "space_id": result.space_id,
            }
        )
    else:
        print_bars((each.label, each.probability) for each in ranked)
