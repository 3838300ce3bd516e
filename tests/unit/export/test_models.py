"""The models that have short names: one table, shown by a page and a command, used wherever a source is named."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.towers.models import Model
from bench.towers.random_siglip import Siglip
from bench.towers.random_vit import ClipVit
from bench.towers.random_weights import count_parameters
from clip_search_export import sources
from clip_search_export.errors import SourceError
from clip_search_export.hub import HUB_ID, Download
from clip_search_export.models import DEFAULT, KNOWN_MODELS, KnownModel, hub_id_of
from clip_search_export.models_command import models
from clip_search_export.sources import DEMOS, locate
from clip_search_photos.up_command import up

PAGE = Path(__file__).resolve().parents[3] / "docs/models.md"
SHAPES: dict[str, Model] = {
    "b32": ClipVit(),
    "b16": ClipVit(patch=16),
    "l14": ClipVit(patch=14, width=1024, layers=24, text_width=768),
    "siglip-b16": Siglip(),
    "multilingual": Siglip(vocabulary=256_000),
}


def _row(model: KnownModel) -> list[str]:
    return [
        f"`{model.name}`",
        f"`{model.hub_id}`",
        f"{model.download_megabytes:,} MB",
        model.licence,
        model.languages,
        f"{model.picture_gflop} GFLOP",
        f"{model.imagenet_percent} % ({model.imagenet_source})",
    ]


def test_the_page_shows_the_table() -> None:
    """`docs/models.md` says of each model what the code says, in its order, and of no other."""
    rows = re.findall(r"^\| (`.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [row.split(" | ") for row in rows] == [_row(model) for model in KNOWN_MODELS]


@pytest.mark.parametrize("model", KNOWN_MODELS, ids=lambda model: model.name)
def test_sizes_and_work_are_those_of_the_shape(model: KnownModel) -> None:
    """Parameters and arithmetic agree with the released shapes that the benchmarks are made of."""
    shape = SHAPES[model.name]
    assert model.picture_gflop == pytest.approx(shape.image_load().flops / 1e9, abs=0.05)
    assert model.parameters == count_parameters(shape.tensors())


def test_names_are_no_other_sources() -> None:
    """A name is unique, and neither a demo model's nor anything like a hub id; the hub ids are some."""
    names = [model.name for model in KNOWN_MODELS]
    assert len(set(names)) == len(names)
    assert not set(names) & DEMOS.keys()
    assert not any(HUB_ID.fullmatch(name) for name in names)
    assert all(HUB_ID.fullmatch(model.hub_id) for model in KNOWN_MODELS)


def test_a_name_stands_for_its_hub_id_wherever_a_source_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`locate` fetches the repository of that name, even beside a folder called so, and records the hub id."""
    fetched: list[str] = []

    def download(repository: str, *_rest: object) -> Download:
        fetched.append(repository)
        return Download(tmp_path, "commit")

    monkeypatch.setattr(sources, "download_checkpoint", download)
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT.name).mkdir()
    assert locate(DEFAULT.name, None).source == DEFAULT.hub_id
    assert fetched == [DEFAULT.hub_id]
    assert locate(f"./{DEFAULT.name}", None).revision is None
    assert hub_id_of("org/other") == "org/other"


def test_an_unknown_name_leads_to_the_list() -> None:
    """What is nothing at all is answered with where the names are."""
    with pytest.raises(SourceError, match="nor a name that `clip-search models` lists"):
        locate("b33", None)


def test_the_command_lists_every_model() -> None:
    """For people with size, licence and score; as JSON with every field."""
    shown = CliRunner().invoke(models, []).output
    for model in KNOWN_MODELS:
        assert f"{model.hub_id}" in shown
        assert f"{model.download_megabytes:,} MB, licence {model.licence}" in shown
    document = json.loads(CliRunner().invoke(models, ["--json"]).output)
    assert document["default"] == DEFAULT.name
    assert [entry["hub_id"] for entry in document["models"]] == [model.hub_id for model in KNOWN_MODELS]


def test_up_takes_the_default() -> None:
    """What `clip-search up` exports without being told is the table's default."""
    (option,) = [parameter for parameter in up.params if parameter.name == "model"]
    assert option.default == DEFAULT.name
