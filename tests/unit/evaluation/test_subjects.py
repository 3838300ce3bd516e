import pytest

from clip_search.results import Collection
from clip_search_evaluation.errors import EvaluationError
from clip_search_evaluation.subjects import Subject, find_subjects
from tests.unit.evaluation.fakes import model

RESNET, VIT = model("resnet", "a", is_default=True), model("vit", "b")
COLLECTIONS = [Collection("default", "a", 8, 1, ()), Collection("photos-v2", "b", 8, 1, ("photos",))]


def found(model: str = "", collection: str = "", compare: tuple[str, ...] = ()) -> list[Subject]:
    """What names stand for on a server with two models and two collections."""
    return find_subjects([VIT, RESNET], COLLECTIONS, model=model, collection=collection, compare=compare)


def test_names_stand_for_models_collections_and_aliases() -> None:
    """Nothing is the default model; a collection brings the model of its space."""
    assert found() == [Subject("resnet", RESNET)]
    assert found(model="vit") == [Subject("vit", VIT)]
    assert found(collection="photos") == [Subject("photos", VIT, "photos")]
    assert found(collection="default", model="resnet") == [Subject("default", RESNET, "default")]
    assert found(compare=("vit", "photos-v2")) == [
        Subject("resnet", RESNET),
        Subject("vit", VIT),
        Subject("photos-v2", VIT, "photos-v2"),
    ]


def test_a_collection_whose_model_is_not_loaded_cannot_be_measured() -> None:
    """Its texts could not be embedded."""
    with pytest.raises(EvaluationError, match="--collection photos: no model of this server makes vectors"):
        find_subjects([RESNET], COLLECTIONS, model="", collection="photos", compare=())
