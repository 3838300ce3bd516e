"""Which of a bundle's variants runs, and why; knows nothing of sessions.

8-bit arithmetic is for processors alone, is not quite exact, and is fast only where the processor multiplies bytes in
one instruction. So it is used where it is asked for, or where `auto` allows it and it pays.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clip_search_server.bundle import INT8
from clip_search_server.encoder.sessions import CPU, Device
from clip_search_server.errors import FailedPreconditionError

__all__ = ["Precision", "PrecisionChoice", "choose_precision", "multiplies_bytes"]

PrecisionChoice = Literal["float", "auto", "fp16", "fp32", "int8"]

_FLOATS = ("fp16", "fp32")
_PROCESSOR_INFO = Path("/proc/cpuinfo")
_BYTE_PRODUCTS = {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"}
"""Processor flags of instructions that multiply bytes and add up in 32 bits."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The variant that runs and why."""

    name: str
    reason: str


def choose_precision(variants: Collection[str], choice: PrecisionChoice, device: Device) -> Precision:
    """Pick the variant for `choice`: `float` is FP16, or else FP32; `auto` may be int8; the others are themselves.

    Raises:
        FailedPreconditionError: the bundle has no such variant, or int8 was asked for on a device other than the CPU.
    """
    if choice in variants:
        if choice == INT8 and device.provider != CPU:
            raise FailedPreconditionError(
                f"--precision int8: 8-bit arithmetic is for processors, and the towers run on {device.name}. "
                "Start with --device cpu, or with --precision float."
            )
        return Precision(choice, f"--precision {choice}")
    if choice not in {"float", "auto"}:
        remedy = "export it with --int8" if choice == INT8 else f"export it with --precision {choice}"
        raise FailedPreconditionError(
            f"--precision {choice}: the bundle has {' and '.join(sorted(variants)) or 'no variant'}; {remedy}."
        )
    if choice == "auto" and INT8 in variants and device.provider == CPU and multiplies_bytes():
        return Precision(INT8, "--precision auto: the processor multiplies bytes, and the variant passed its gates")
    name = next((name for name in _FLOATS if name in variants), None)
    if name is None:
        raise FailedPreconditionError("--precision float: the bundle has 8-bit towers alone; export the model again.")
    return Precision(name, f"--precision {choice}")


def multiplies_bytes(processor_info: Path = _PROCESSOR_INFO) -> bool:
    """Return whether the processor has instructions for products of bytes, as far as the system tells."""
    try:
        lines = processor_info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return not _BYTE_PRODUCTS.isdisjoint(flags.split())
