"""Which variant of a bundle runs."""

from pathlib import Path

import pytest

from clip_search_server.encoder import precision
from clip_search_server.encoder.precision import PrecisionChoice, choose_precision, multiplies_bytes
from clip_search_server.encoder.sessions import CPU, Device
from clip_search_server.errors import FailedPreconditionError

PROCESSOR = Device(CPU, "cpu", "")
GPU = Device("CUDAExecutionProvider", "cuda:0", "")


@pytest.mark.parametrize(
    ("variants", "choice", "chosen"),
    [
        (("fp16", "int8"), "float", "fp16"),
        (("fp32", "int8"), "float", "fp32"),
        (("fp16", "int8"), "int8", "int8"),
        (("fp16", "int8"), "auto", "int8"),
        (("fp16",), "auto", "fp16"),
        (("fp16", "fp32"), "fp32", "fp32"),
    ],
)
def test_the_variant_that_was_asked_for_runs(
    variants: tuple[str, ...], choice: PrecisionChoice, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but `int8` and `auto` gives 8-bit arithmetic."""
    monkeypatch.setattr(precision, "multiplies_bytes", lambda: True)
    assert choose_precision(variants, choice, PROCESSOR).name == chosen


def test_auto_leaves_8_bits_to_processors_that_are_fast_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, and on a processor without products of bytes, `auto` is floating point."""
    monkeypatch.setattr(precision, "multiplies_bytes", lambda: True)
    assert choose_precision({"fp16", "int8"}, "auto", GPU).name == "fp16"
    monkeypatch.setattr(precision, "multiplies_bytes", lambda: False)
    assert choose_precision({"fp16", "int8"}, "auto", PROCESSOR).name == "fp16"


def test_8_bits_on_a_gpu_are_refused() -> None:
    """Asking for what the device cannot do is an error, never another precision."""
    with pytest.raises(FailedPreconditionError, match=r"cuda:0.*--device cpu"):
        choose_precision({"fp16", "int8"}, "int8", GPU)


@pytest.mark.parametrize(("choice", "remedy"), [("int8", "--int8"), ("fp32", "--precision fp32")])
def test_a_variant_that_is_not_there_is_named(choice: PrecisionChoice, remedy: str) -> None:
    """The message names what there is and how to get the other."""
    with pytest.raises(FailedPreconditionError, match=f"the bundle has fp16; export it with {remedy}"):
        choose_precision({"fp16"}, choice, PROCESSOR)


def test_a_bundle_of_8_bits_alone_has_no_floating_point() -> None:
    """The default never slips into 8-bit arithmetic."""
    with pytest.raises(FailedPreconditionError, match="8-bit towers alone"):
        choose_precision({"int8"}, "float", PROCESSOR)


@pytest.mark.parametrize(
    ("info", "fast"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("processor : 0\nFeatures\t: fp asimd asimddp\n", True),
        ("processor : 0\nflags\t\t: fpu avx2 avx512f\n", False),
        ("", False),
    ],
)
def test_the_processor_is_asked(tmp_path: Path, info: str, *, fast: bool) -> None:
    """Its flags decide; a system that does not tell counts as slow."""
    (tmp_path / "cpuinfo").write_text(info)
    assert multiplies_bytes(tmp_path / "cpuinfo") is fast
    assert not multiplies_bytes(tmp_path / "missing")
