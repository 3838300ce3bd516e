from pathlib import Path

import numpy as np
import pytest

from bench.index.vectors import Parameters, Space, fit, nearest_cosine


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    """The committed figures of the demo model."""
    return Parameters.load()


@pytest.mark.parametrize("dim", [100, 192, 512])
def test_vectors_are_of_unit_length_and_any_dimension(parameters: Parameters, dim: int) -> None:
    """Pictures and texts of a space shorter or longer than the model's are unit vectors in single precision."""
    space = Space(parameters, dim=dim, concepts=20, seed=1)
    for vectors in (space.pictures(300), space.texts(50)):
        assert vectors.shape[1] == dim
        assert vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_the_same_seed_gives_the_same_vectors(parameters: Parameters) -> None:
    """Everything is decided by the seed, and another one gives other vectors."""

    def sample(seed: int) -> bytes:
        space = Space(parameters, dim=64, concepts=10, seed=seed)
        return space.pictures(100).tobytes() + space.texts(10).tobytes()

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


@pytest.mark.parametrize("dim", [192, 512])
def test_texts_and_pictures_lie_apart_as_measured(parameters: Parameters, dim: int) -> None:
    """The modality gap and the spread around both means are those of the model, also in longer vectors."""
    space = Space(parameters, dim=dim, concepts=400, seed=3)
    pictures, texts = space.pictures(4000), space.texts(2000)
    picture_mean, text_mean = np.array(parameters.picture_mean), np.array(parameters.text_mean)
    assert pictures.mean(axis=0) @ texts.mean(axis=0) == pytest.approx(picture_mean @ text_mean, abs=0.05)
    assert pictures.var(axis=0).sum() == pytest.approx(sum(parameters.picture_variances), abs=0.05)
    assert texts.var(axis=0).sum() == pytest.approx(sum(parameters.text_variances), abs=0.05)


def test_fitting_what_was_generated_gives_the_parameters_back(parameters: Parameters, tmp_path: Path) -> None:
    """`fit` recovers clusters, spectrum and gap from vectors that have them, and a file keeps them."""
    space = Space(parameters, dim=192, concepts=100, seed=4)
    pictures, texts = space.pictures(1600), space.texts(1600)
    fitted = fit(pictures, texts, "generated")
    assert fitted.within_share == pytest.approx(parameters.within_share, abs=0.1)
    spectrum, wanted = np.array(fitted.picture_variances), np.array(parameters.picture_variances)
    assert np.cumsum(spectrum)[[10, 50, 100]] == pytest.approx(np.cumsum(wanted)[[10, 50, 100]], abs=0.06)
    fitted.save(tmp_path / "fitted.json")
    assert Parameters.load(tmp_path / "fitted.json") == fitted
    again = Space(fitted, dim=192, concepts=100, seed=5)
    assert nearest_cosine(again.pictures(1600)) == pytest.approx(nearest_cosine(pictures), abs=0.02)
