"""`clip-search models`: shows which models have short names; knows nothing of how they are fetched or exported."""

import dataclasses
import json

import click

from clip_search_export.models import DEFAULT, KNOWN_MODELS, KnownModel

__all__ = ["models"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def models(*, as_json: bool) -> None:
    """List the models that have a short name, for `clip-search up --model NAME` and `clip-search export NAME OUT`.

    Any other hub id works as well if its family is known. ImageNet: how many of 1,000 kinds of things are recognized
    without an example.
    """
    if as_json:
        click.echo(json.dumps({"default": DEFAULT.name, "models": [_document(model) for model in KNOWN_MODELS]}))
        return
    width = max(len(model.name) for model in KNOWN_MODELS) + 2
    for model in KNOWN_MODELS:
        click.echo(f"{model.name:{width}}{model.hub_id}{'  (default)' if model is DEFAULT else ''}")
        click.echo(f"{'':{width}}{_describe(model)}")


def _describe(model: KnownModel) -> str:
    work = f"{model.picture_gflop / DEFAULT.picture_gflop:.0f} × the work of {DEFAULT.name}"
    facts = [f"{model.download_megabytes:,} MB", f"licence {model.licence}", f"languages: {model.languages}"]
    return ", ".join([*facts, f"ImageNet {model.imagenet_percent} %", *([] if model is DEFAULT else [work])])


def _document(model: KnownModel) -> dict[str, object]:
    return {**dataclasses.asdict(model), "download_megabytes": model.download_megabytes}
