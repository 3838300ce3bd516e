"""The sentences that a class's name is put into for zero-shot classification.

Radford et al. 2021 (arXiv:2103.00020), section 3.1.4: a sentence around the label does better than the label alone, and
the mean over several sentences (an ensemble, made of vectors, not of probabilities) does better than one. Of the 80
sentences that the paper used on ImageNet, its authors found by forward selection that seven do as well, and published
them in the notebook `Prompt_Engineering_for_ImageNet` of their repository; these seven are the ensemble here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ENSEMBLE", "LABEL_ALONE", "SINGLE", "PromptSet", "prompt_sets"]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Sentences with `{}` for the class, averaged over; what they are called, and a few words about them."""

    name: str
    title: str
    templates: tuple[str, ...]

    def prompts(self, classes: Sequence[str]) -> list[str]:
        """Return the sentences of each class, class by class."""
        return [template.replace("{}", name) for name in classes for template in self.templates]


LABEL_ALONE = PromptSet("label", "the label alone", ("{}",))
SINGLE = PromptSet("single", "“a photo of a {}.”", ("a photo of a {}.",))
ENSEMBLE = PromptSet(
    "ensemble",
    "ensemble of seven",
    (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
)


def prompt_sets(templates: Sequence[str]) -> list[PromptSet]:
    """Return the paper's sets and, where there are `templates`, one of these."""
    own = [PromptSet("own", "templates of your own", tuple(templates))] if templates else []
    return [LABEL_ALONE, SINGLE, ENSEMBLE, *own]
