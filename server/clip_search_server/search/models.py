"""The models that a server has side by side, and which of them a request means; knows nothing of what they embed.

A request names a model or leaves it to the collection: then it is the model of the collection's space. So clients that
name none need no change when an alias moves to a collection of another model. Several models may be of one space, such
as two precisions of one export; of these the first is taken, and the default one before all others.
"""

from collections.abc import Iterator, Mapping

from clip_search_server.encoder.encoder import Encoder
from clip_search_server.errors import NotFoundError, SpaceMismatchError
from clip_search_server.index import Space

__all__ = ["Models"]


class Models(Mapping[str, Encoder]):
    """Encoders by name, in the order they were given; the first is the default one.

    Args:
        encoders: at least one.
    """

    def __init__(self, encoders: Mapping[str, Encoder]) -> None:
        if not encoders:
            raise ValueError("a server without a model was asked for. This is a bug.")
        self._encoders = dict(encoders)
        self.default_name = next(iter(self._encoders))

    def __getitem__(self, name: str) -> Encoder:
        return self._encoders[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoders)

    def __len__(self) -> int:
        return len(self._encoders)

    @property
    def default(self) -> Encoder:
        """The default model."""
        return self._encoders[self.default_name]

    @property
    def spaces(self) -> tuple[Space, ...]:
        """The spaces that there is a model for, each once, the default model's first."""
        return tuple(dict.fromkeys(Space(encoder.space_id, encoder.dim) for encoder in self._encoders.values()))

    def named(self, name: str) -> Encoder:
        """Return the model called `name`, the default one for an empty name.

        Raises:
            NotFoundError: there is none.
        """
        found = self._encoders.get(name or self.default_name)
        if found is None:
            raise NotFoundError(f"model: {name!r} does not exist; there is {', '.join(map(repr, self._encoders))}.")
        return found

    def of_space(self, space_id: str) -> Encoder | None:
        """Return the model that an empty name means for a collection of this space, None where there is none."""
        name = self._name_of_space(space_id)
        return None if name is None else self._encoders[name]

    def for_collection(self, collection: str, space_id: str, name: str) -> Encoder:
        """Return the model called `name`, or for an empty name the one of a collection's space.

        Raises:
            NotFoundError: there is no model of this name.
            SpaceMismatchError: the model is of another space, or none is of the collection's.
        """
        if not name:
            found = self.of_space(space_id)
            if found is None:
                raise SpaceMismatchError(self.refusal_of(collection, space_id))
            return found
        encoder = self.named(name)
        if encoder.space_id != space_id:
            fitting = self._name_of_space(space_id)
            advice = "" if fitting is None else f"; name model {fitting!r}, or none"
            raise SpaceMismatchError(
                f"collection {collection!r} holds vectors of space {space_id}, but model {name!r} makes vectors of "
                f"space {encoder.space_id}{advice}"
            )
        return encoder

    def why_unusable(self, space_id: str) -> str | None:
        """Return why a collection of this space cannot be searched and what to do, None where it can."""
        if self.of_space(space_id) is not None:
            return None
        return f"no model of this server is of its space {space_id}; start it with --bundle NAME=PATH of that model too"

    def refusal_of(self, collection: str, space_id: str) -> str:
        """Return the same as an answer to a request, with the models that there are."""
        theirs = ", ".join(f"{name!r} of {encoder.space_id}" for name, encoder in self._encoders.items())
        return (
            f"collection {collection!r} holds vectors of space {space_id}, which no model of this server makes; "
            f"start it with --bundle NAME=PATH of that model too (there is {theirs})"
        )

    def shared_spaces(self) -> list[tuple[str, ...]]:
        """Return the names of the models of each space that has several."""
        groups: dict[str, list[str]] = {}
        for name, encoder in self._encoders.items():
            groups.setdefault(encoder.space_id, []).append(name)
        return [tuple(names) for names in groups.values() if len(names) > 1]

    async def close(self) -> None:
        """Finish what they are at."""
        for encoder in self._encoders.values():
            await encoder.close()

    def _name_of_space(self, space_id: str) -> str | None:
        # In their order, the default one first.
        return next((name for name, encoder in self._encoders.items() if encoder.space_id == space_id), None)
