"""What of a server is measured: a model, or a collection with the model of its space; sends nothing.

A name stands for a model, else for a collection or an alias of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from clip_search.results import Collection, Model
from clip_search_evaluation.errors import EvaluationError

__all__ = ["Subject", "find_subjects"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure, and the collection to search where there is one.

    Attributes:
        name: what it is called in the report.
        model: what embeds.
        collection: what is searched; empty where nothing is.
    """

    name: str
    model: Model
    collection: str = ""


def find_subjects(
    models: Sequence[Model], collections: Sequence[Collection], *, model: str, collection: str, compare: Sequence[str]
) -> list[Subject]:
    """Return what is to be measured: first what `model` and `collection` name, then each of `compare`.

    Args:
        models: of the server.
        collections: of the server.
        model: name of a model; empty takes the one of the collection, else the server's default.
        collection: name of a collection or an alias; empty searches none.
        compare: names of models, collections or aliases.

    Raises:
        EvaluationError: there is nothing of such a name, or a name is given twice.
    """
    server = _Server(models, collections)
    first = server.collection(collection, "--collection") if collection else None
    if model:
        named = server.model(model)
        if named is None:
            raise EvaluationError(f"--model {model}: the server has no such model; it has {server.model_names}")
        if first is not None and named.space_id != first.model.space_id:
            raise EvaluationError(f"--model {model}: does not belong to the space of collection {collection}")
        first = Subject(model, named) if first is None else Subject(collection, named, collection)
    subjects = [first or server.default()]
    for name in compare:
        named = server.model(name)
        subject = Subject(name, named) if named is not None else server.collection(name, "--compare")
        if any(subject.name == other.name for other in subjects):
            raise EvaluationError(f"--compare {name}: is measured already; name something else to compare with")
        subjects.append(subject)
    return subjects


class _Server:
    """The names that a server knows."""

    def __init__(self, models: Sequence[Model], collections: Sequence[Collection]) -> None:
        self._models = {model.name: model for model in models}
        self._collections = {name: each for each in collections for name in (*each.aliases, each.name)}
        self.model_names = ", ".join(self._models)

    def default(self) -> Subject:
        model = next(model for model in self._models.values() if model.is_default)
        return Subject(model.name, model)

    def model(self, name: str) -> Model | None:
        return self._models.get(name)

    def collection(self, name: str, option: str) -> Subject:
        found = self._collections.get(name)
        if found is None:
            known = ", ".join(self._collections) or "none"
            models = f" and no model (models: {self.model_names})" if option == "--compare" else ""
            raise EvaluationError(f"{option} {name}: the server has no such collection (it has {known}){models}")
        model = next((each for each in self._models.values() if each.space_id == found.space_id), None)
        if model is None:
            raise EvaluationError(f"{option} {name}: no model of this server makes vectors of the collection's space")
        return Subject(name, model, name)
