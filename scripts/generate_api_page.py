"""Writes `docs/api.md` from the comments of the API's protos, or checks that what is committed is up to date.

    python scripts/generate_api_page.py            write docs/api.md
    python scripts/generate_api_page.py --check    change nothing; exit 1 if the page is stale

It needs grpcio-tools from the development set-up. Comments are taken for Markdown: paragraphs, lists and code. Names in
backticks, such as `Limits.labels_max`, become links, and codes such as NOT_FOUND become code. It knows nothing of what
the API means, and nothing of the Python code that is generated from the same files.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
PROTO_FOLDER = ROOT / "proto"
PACKAGE = "clip_search.v1"
#: In the order of the page: services from reading to managing, and shared messages before those that hold them.
FILES = ("search", "embedding", "index", "collection", "server", "content", "item", "filter")

HEAD = """\
# API

<!-- Generated from the comments in proto/clip_search/v1 by `make protos`. Edit those. -->

gRPC, package `clip_search.v1`; the files are in `proto/clip_search/v1`. The server offers `grpc.health.v1.Health`, and
reflection unless it was started with `--no-reflection`. [clients.md](clients.md) tells of clients in several languages,
of what errors carry, of deadlines and of retries; [operations/security.md](operations/security.md) of TLS, of keys, and
of which role may call what: where the server asks for keys, any method may also answer `UNAUTHENTICATED` or
`PERMISSION_DENIED`.

A field that is not set has its type's empty value: 0, false, an empty text or list. Only where it says `optional`, and
for messages, is "unset" something else than that.
"""

# The numbers that descriptors give the lists of their parts: see google/protobuf/descriptor.proto.
_MESSAGES, _ENUMS, _SERVICES, _PACKAGE_NAME = 4, 5, 6, 2
_FIELDS, _ONEOFS, _METHODS, _VALUES = 2, 8, 2, 2

_CODES = (
    "INVALID_ARGUMENT|NOT_FOUND|ALREADY_EXISTS|FAILED_PRECONDITION|RESOURCE_EXHAUSTED|UNAVAILABLE|UNIMPLEMENTED|"
    "DATA_LOSS|DEADLINE_EXCEEDED|UNAUTHENTICATED|PERMISSION_DENIED|INTERNAL"
)
_TYPE_NAMES = {number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()}


@dataclass(frozen=True)
class Part:
    """One message, enum or service, with the comments of its file by path."""

    descriptor: DescriptorProto | EnumDescriptorProto | ServiceDescriptorProto
    path: tuple[int, ...]
    comments: dict[tuple[int, ...], str]

    def comment(self, *below: int) -> str:
        """Return the comment of the part itself, or of what is at a path below it."""
        return self.comments.get(self.path + below, "")


class Page:
    """The page of one API, made from its file descriptors."""

    def __init__(self, protos: list[FileDescriptorProto]) -> None:
        """Take the files in the order in which their parts are to appear."""
        self._files = [(proto, list(_parts(proto))) for proto in protos]
        self._targets = self._link_targets()

    def text(self) -> str:
        """Return the page."""
        return "\n".join([HEAD, *self._overview(), *self._services(), *self._messages()]).rstrip() + "\n"

    def _link_targets(self) -> dict[str, str]:
        """Map what may stand in backticks to the anchor of its heading.

        Raises:
            ValueError: two headings would have one anchor.
        """
        targets: dict[str, str] = {}
        anchors: set[str] = set()
        for _, parts in self._files:
            for part in parts:
                name = part.descriptor.name
                headings = [name]
                if isinstance(part.descriptor, ServiceDescriptorProto):
                    headings += [f"{name}.{method.name}" for method in part.descriptor.method]
                for heading in headings:
                    targets[heading] = _anchor(heading)
                    if targets[heading] in anchors:
                        raise ValueError(f"{heading}: another heading has the anchor {targets[heading]} already")
                    anchors.add(targets[heading])
                if isinstance(part.descriptor, DescriptorProto):
                    targets |= {f"{name}.{field.name}": _anchor(name) for field in part.descriptor.field}
                elif isinstance(part.descriptor, EnumDescriptorProto):
                    targets |= {value.name: _anchor(name) for value in part.descriptor.value}
        return targets

    def _overview(self) -> Iterator[str]:
        yield "| service | methods |"
        yield "| --- | --- |"
        for name, methods in self._method_names():
            links = ", ".join(f"[{method}](#{_anchor(f'{name}.{method}')})" for method in methods)
            yield f"| [{name}](#{_anchor(name)}) | {links} |"
        yield ""
        shown = {name: self._linked(f"`{name}`") for name in ("Limits", "Content", "Item", "Filter")}
        yield f"Bounds on everything, with their defaults: {shown['Limits']}. What can be embedded, and the errors of"
        yield f"that: {shown['Content']}. What can be stored: {shown['Item']}. Conditions: {shown['Filter']}."
        yield ""

    def _method_names(self) -> Iterator[tuple[str, list[str]]]:
        for _, parts in self._files:
            for part in parts:
                if isinstance(part.descriptor, ServiceDescriptorProto):
                    yield part.descriptor.name, [method.name for method in part.descriptor.method]

    def _services(self) -> Iterator[str]:
        for _, parts in self._files:
            for part in parts:
                service = part.descriptor
                if not isinstance(service, ServiceDescriptorProto):
                    continue
                yield from (f"## {service.name}", "", self._prose(part.comment()), "")
                for number, method in enumerate(service.method):
                    asked = ("stream " if method.client_streaming else "") + self._type_link(method.input_type)
                    given = ("stream " if method.server_streaming else "") + self._type_link(method.output_type)
                    yield from (f"### {service.name}.{method.name}", "", f"{asked} → {given}", "")
                    yield from (self._prose(part.comment(_METHODS, number)), "")

    def _messages(self) -> Iterator[str]:
        yield from ("## Messages", "")
        for proto, parts in self._files:
            comment = _comments(proto).get((_PACKAGE_NAME,), "")
            links = ", ".join(
                self._type_link(part.descriptor.name)
                for part in parts
                if not isinstance(part.descriptor, ServiceDescriptorProto)
            )
            yield f"- `{Path(proto.name).name}`: {self._prose(comment).replace(chr(10), ' ')} {links}"
        yield ""
        for _, parts in self._files:
            for part in parts:
                if isinstance(part.descriptor, DescriptorProto):
                    yield from self._message(part, part.descriptor)
                elif isinstance(part.descriptor, EnumDescriptorProto):
                    yield from self._enum(part, part.descriptor)

    def _message(self, part: Part, message: DescriptorProto) -> Iterator[str]:
        yield from (f"### {message.name}", "", self._prose(part.comment()), "")
        if not message.field:
            return
        yield from ("| field | type | |", "| --- | --- | --- |")
        group_before: int | None = None
        for number, field in enumerate(message.field):
            group = field.oneof_index if field.HasField("oneof_index") and not field.proto3_optional else None
            if group is not None and group != group_before:
                name = message.oneof_decl[group].name
                yield f"| **{name}** | one of these | {self._cell(part.comment(_ONEOFS, group))} |"
            group_before = group
            indent = "" if group is None else "· "
            comment = self._cell(part.comment(_FIELDS, number))
            yield f"| {indent}`{field.name}` | {self._field_type(message, field)} | {comment} |"
        yield ""

    def _enum(self, part: Part, enum: EnumDescriptorProto) -> Iterator[str]:
        yield from (f"### {enum.name}", "", self._prose(part.comment()), "", "| value | |", "| --- | --- |")
        for number, value in enumerate(enum.value):
            yield f"| `{value.name}` | {self._cell(part.comment(_VALUES, number))} |"
        yield ""

    def _field_type(self, message: DescriptorProto, field: FieldDescriptorProto) -> str:
        for nested in message.nested_type:
            if nested.options.map_entry and field.type_name.endswith(f".{message.name}.{nested.name}"):
                key, value = nested.field
                return f"map of {_TYPE_NAMES[key.type]} to {self._field_type(nested, value)}"
        name = self._type_link(field.type_name) if field.type_name else _TYPE_NAMES[field.type]
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {name}"
        return f"optional {name}" if field.proto3_optional else name

    def _type_link(self, full_name: str) -> str:
        name = full_name.removeprefix(".").removeprefix(f"{PACKAGE}.")
        return f"[{name}](#{self._targets[name]})" if name in self._targets else f"`{name}`"

    def _linked(self, text: str) -> str:
        """Turn names in backticks into links, and bare codes and enum values into code."""

        def link(match: re.Match[str]) -> str:
            name = match[1]
            return f"[`{name}`](#{self._targets[name]})" if name in self._targets else match[0]

        constants = "|".join(name for name in self._targets if name.isupper())
        parts = re.split(r"(`[^`]+`)", text)
        bare = re.compile(rf"\b(?:{_CODES}|{constants})\b" if constants else rf"\b(?:{_CODES})\b")
        coded = [each if at % 2 else bare.sub(lambda found: f"`{found[0]}`", each) for at, each in enumerate(parts)]
        return re.sub(r"`([\w.]+)`", link, "".join(coded))

    def _prose(self, comment: str) -> str:
        """Return a comment as Markdown; a list right below a line gets the empty line that Markdown wants."""
        return self._linked(re.sub(r"(?m)^(?!- |  |$)(.*)\n(?=- )", r"\1\n\n", comment))

    def _cell(self, comment: str) -> str:
        """Return a comment as one cell of a table."""
        paragraphs = re.split(r"\n\n|\n(?=- )", self._linked(comment).replace("|", r"\|"))
        return "<br>".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _parts(proto: FileDescriptorProto) -> Iterator[Part]:
    comments = _comments(proto)
    for number, service in enumerate(proto.service):
        yield Part(service, (_SERVICES, number), comments)
    for number, message in enumerate(proto.message_type):
        yield Part(message, (_MESSAGES, number), comments)
    for number, enum in enumerate(proto.enum_type):
        yield Part(enum, (_ENUMS, number), comments)


def _comments(proto: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    """Return the leading comments of a file by the path of what they stand above, their first spaces taken off."""
    return {
        tuple(location.path): re.sub(r"(?m)^ ", "", location.leading_comments).strip()
        for location in proto.source_code_info.location
        if location.leading_comments
    }


def _anchor(heading: str) -> str:
    """Return what a heading is linked by: letters and digits in small letters, as the usual viewers make it."""
    return re.sub(r"[^\w-]", "", heading.lower())


def read_protos() -> list[FileDescriptorProto]:
    """Return the descriptors of the API's files with their comments, in the order of the page.

    Raises:
        SystemExit: protoc refused a file, having printed why; or the page's order names other files than there are.
    """
    names = {path.stem for path in (PROTO_FOLDER / "clip_search/v1").glob("*.proto")}
    if names != set(FILES):
        sys.exit(f"FILES of {__file__} names other protos than there are: {sorted(names ^ set(FILES))}")
    wanted = [f"clip_search/v1/{name}.proto" for name in FILES]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "set.binpb"
        includes = [f"--proto_path={PROTO_FOLDER}", f"--proto_path={files('grpc_tools') / '_proto'}"]
        arguments = ["protoc", *includes, "--include_source_info", f"--descriptor_set_out={target}", *wanted]
        if protoc.main(arguments) != 0:
            sys.exit("protoc failed; its messages are above")
        found = {proto.name: proto for proto in FileDescriptorSet.FromString(target.read_bytes()).file}
    return [found[name] for name in wanted]


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Write docs/api.md from the comments of the protos.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the committed page is stale")
    only_check = parser.parse_args().check
    text = Page(read_protos()).text()
    if not only_check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE}: not what `make protos` writes", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
