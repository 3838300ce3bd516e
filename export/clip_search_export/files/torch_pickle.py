"""Reads the pickle of a PyTorch file of weights as data; knows nothing of the file around it.

A pickle is a program for a small stack machine, and Python's own machine can be made to run anything. The machine here
has only the operations that lists of tensors need. It knows four names, calls nothing, imports nothing and sets no
attributes; whatever else a file asks for is an error that says what it was.

What the names stand for: `collections.OrderedDict` is a dict; `torch.*Storage` is an element type;
`torch._utils._rebuild_tensor_v2` is a `PickledTensor`; `torch._utils._rebuild_parameter` is the tensor in it.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from clip_search_export.errors import CheckpointError

__all__ = ["PickledTensor", "Storage", "read_pickle"]

_INTEGER_MAX = 1 << 62


class Storage(NamedTuple):
    """A run of elements in a file of its own."""

    type_name: str
    dtype: np.dtype[Any]
    key: str
    size: int


class PickledTensor(NamedTuple):
    """A tensor as a view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Name(NamedTuple):
    """A global that the pickle asked for, one of `_KNOWN_NAMES` or `_ELEMENT_TYPES`."""

    module: str
    name: str


_ORDERED_DICT = _Name("collections", "OrderedDict")
_REBUILD_TENSOR = _Name("torch._utils", "_rebuild_tensor_v2")
_REBUILD_PARAMETER = _Name("torch._utils", "_rebuild_parameter")
_ELEMENT_TYPES: Mapping[_Name, np.dtype[Any]] = {
    _Name("torch", "HalfStorage"): np.dtype(np.float16),
    _Name("torch", "BFloat16Storage"): np.dtype(ml_dtypes.bfloat16),
    _Name("torch", "FloatStorage"): np.dtype(np.float32),
    _Name("torch", "DoubleStorage"): np.dtype(np.float64),
    _Name("torch", "LongStorage"): np.dtype(np.int64),
    _Name("torch", "IntStorage"): np.dtype(np.int32),
    _Name("torch", "ShortStorage"): np.dtype(np.int16),
    _Name("torch", "CharStorage"): np.dtype(np.int8),
    _Name("torch", "ByteStorage"): np.dtype(np.uint8),
    _Name("torch", "BoolStorage"): np.dtype(np.bool_),
}
_KNOWN_NAMES = frozenset({_ORDERED_DICT, _REBUILD_TENSOR, _REBUILD_PARAMETER, *_ELEMENT_TYPES})


def read_pickle(data: bytes) -> object:
    """Return what the pickle describes: dicts, lists, tuples and plain values, with `PickledTensor` among them.

    Raises:
        CheckpointError: the pickle asks for anything else, or is damaged; the message continues a sentence that began
            with the file's name.
    """
    machine = _Machine()
    try:
        for operation, argument, _position in pickletools.genops(data):
            if operation.name == "STOP":
                return machine.pop()
            run = _OPERATIONS.get(operation.name)
            if run is None:
                raise CheckpointError(f"uses the pickle operation {operation.name}, which no file of weights needs.")
            run(machine, argument)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise CheckpointError(f"has a damaged pickle ({type(error).__name__}).") from error
    raise CheckpointError("has a pickle without an end.")


class _Machine:
    """A stack, the stacks set aside at marks, and the memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> Any:  # noqa: ANN401 - pickled values are of any type.
        return self.stack.pop()

    def pop_many(self, count: int) -> tuple[Any, ...]:
        values = [self.pop() for _ in range(count)]
        return tuple(reversed(values))

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marked.pop()
        return values

    def remember(self, key: int | None) -> None:
        self.memo[len(self.memo) if key is None else key] = self.stack[-1]

    def extend_list(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise TypeError
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Tensors go by strings; what optimizers keep goes by integers. Hashing a nested tuple can take forever.
            if type(key) not in {str, int}:
                raise TypeError
            target[key] = value

    def push_name(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise TypeError
        if (module, name) not in _KNOWN_NAMES:
            raise CheckpointError(
                f"asks to load {f'{module}.{name}'!r}, which no file of weights needs; it was not run."
            )
        self.push(_Name(module, name))

    def push_storage(self) -> None:
        kind, element_type, key, _device, size = self.pop()
        if kind != "storage" or type(key) is not str:
            raise TypeError
        self.push(Storage(element_type.name, _ELEMENT_TYPES[element_type], key, _count(size)))

    def call(self) -> None:
        function, arguments = self.pop_many(2)
        if type(function) is not _Name or type(arguments) is not tuple:
            raise TypeError
        if function == _ORDERED_DICT and not arguments:
            self.push({})
        elif function == _REBUILD_TENSOR:
            self.push(_rebuild_tensor(*arguments[:4]))
        elif function == _REBUILD_PARAMETER and type(arguments[0]) is PickledTensor:
            self.push(arguments[0])
        else:
            raise TypeError

    def ignore_attributes(self) -> None:
        """Drop the attributes of an ordered dict: a state dict notes the versions of modules there."""
        self.pop()
        if type(self.stack[-1]) is not dict:
            raise TypeError


def _rebuild_tensor(storage: object, offset: object, shape: object, strides: object) -> PickledTensor:
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise TypeError
    return PickledTensor(storage, _count(offset), tuple(map(_count, shape)), tuple(map(_count, strides)))


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _INTEGER_MAX:
        raise ValueError
    return value


_Operation = Callable[[_Machine, Any], None]

_OPERATIONS: dict[str, _Operation] = {
    "PROTO": lambda _machine, _version: None,
    "FRAME": lambda _machine, _length: None,
    "MARK": lambda machine, _: machine.mark(),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_many(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_many(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_many(3)),
    "APPEND": lambda machine, _: machine.extend_list([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend_list(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([*machine.pop_many(2)]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, names: machine.push_name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.push_name(*machine.pop_many(2)),
    "BINPERSID": lambda machine, _: machine.push_storage(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.ignore_attributes(),
    "MEMOIZE": lambda machine, _: machine.remember(None),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        lambda machine, value: machine.push(value),
    ),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, key: machine.remember(key)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, key: machine.push(machine.memo[key])),
}
