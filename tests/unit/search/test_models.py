"""Which model a request means."""

from typing import cast

import pytest

from clip_search_server.encoder.encoder import Encoder
from clip_search_server.errors import NotFoundError, SpaceMismatchError
from clip_search_server.search.models import Models


class FakeEncoder:
    """An encoder that only has a space."""

    def __init__(self, space_id: str) -> None:
        self.space_id = space_id
        self.dim = len(space_id)
        self.closed = False

    async def close(self) -> None:
        """Note it."""
        self.closed = True


def models(**spaces: str) -> Models:
    """Models by name, each of a space."""
    return Models({name: cast("Encoder", FakeEncoder(space)) for name, space in spaces.items()})


def test_the_first_model_is_the_default_one() -> None:
    """An empty name means it where no collection takes part."""
    several = models(b="one", a="two")
    assert several.default_name == "b"
    assert several.named("") is several.named("b") is several["b"]
    with pytest.raises(NotFoundError, match="model: 'c' does not exist; there is 'b', 'a'"):
        several.named("c")


def test_without_a_name_a_collection_gets_the_model_of_its_space() -> None:
    """The default one where it is of the space, else the first that is."""
    several = models(a="one", b="two", c="two", d="one")
    assert several.for_collection("x", "one", "") is several["a"]
    assert several.for_collection("x", "two", "") is several["b"]
    assert several.for_collection("x", "two", "c") is several["c"]
    assert several.shared_spaces() == [("a", "d"), ("b", "c")]
    assert [space.space_id for space in several.spaces] == ["one", "two"]
    assert models(a="two", b="one", c="one").for_collection("x", "one", "") is not None


def test_a_model_of_another_space_is_refused_with_what_would_do() -> None:
    """Both names, both spaces, and the name that fits, if any does."""
    several = models(a="one", b="two")
    with pytest.raises(SpaceMismatchError) as caught:
        several.for_collection("pets", "two", "a")
    for part in ("'pets'", "space two", "'a'", "space one", "name model 'b', or none"):
        assert part in str(caught.value)
    with pytest.raises(SpaceMismatchError) as caught:
        several.for_collection("pets", "three", "a")
    assert "or none" not in str(caught.value)


def test_a_space_that_no_model_is_of_is_told_with_all_models() -> None:
    """And with what to start the server with."""
    several = models(a="one", b="two")
    assert several.of_space("three") is None
    with pytest.raises(SpaceMismatchError, match=r"'pets'.*space three.*--bundle NAME=PATH.*'a' of one, 'b' of two"):
        several.for_collection("pets", "three", "")


async def test_closing_closes_every_model() -> None:
    """Each once its work is done."""
    several = models(a="one", b="two")
    await several.close()
    assert all(cast("FakeEncoder", encoder).closed for encoder in several.values())
