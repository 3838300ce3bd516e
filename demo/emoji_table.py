"""Writes `emoji.tsv`, the names of the demo's sample pictures; needed only when Unicode adds emoji.

The names are the English CLDR short names as the npm package `emojibase-data` ships them. Knows nothing of pictures.
Run it as `npm install emojibase-data@17.0.0` in some folder, then `python -m demo.emoji_table FOLDER/node_modules`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("emoji.tsv")
_UNWANTED_GROUPS = frozenset({"component", "flags"})
_HEADER = """\
# The emoji that the demo draws, in Unicode's order: no flags, no skin tones, no right-facing variants.
# Names are Unicode CLDR short names, from the npm package emojibase-data {version}; see licences/emoji-names.txt.
# Written by `python -m demo.emoji_table`; columns are separated by a tab.
emoji\tname\tgroup\tsubgroup
"""


def wanted_rows(records: Sequence[Mapping[str, Any]], groups: Mapping[str, Mapping[str, str]]) -> list[tuple[str, ...]]:
    """Return (emoji, name, group, subgroup) of every emoji to draw, in Unicode's order.

    Args:
        records: emojibase's `en/data.json`. Skin-tone variants hang below their base record and so are left out.
        groups: emojibase's `meta/groups.json`: names of `groups` and `subgroups` by number.
    """
    rows: list[tuple[str, ...]] = []
    for record in sorted(records, key=lambda record: int(record.get("order", 0))):
        group = groups["groups"].get(str(record.get("group")), "component")
        if group not in _UNWANTED_GROUPS and "facing right" not in record["label"]:
            rows.append((record["emoji"], record["label"], group, groups["subgroups"][str(record["subgroup"])]))
    return rows


def main() -> None:
    """Rewrite the table from the package under the given `node_modules` folder."""
    parser = argparse.ArgumentParser(prog="python -m demo.emoji_table", description="Write demo/emoji.tsv.")
    parser.add_argument("node_modules", type=Path, help="folder that holds emojibase-data")
    package = parser.parse_args().node_modules / "emojibase-data"
    version = json.loads((package / "package.json").read_text())["version"]
    records = json.loads((package / "en/data.json").read_text())
    groups = json.loads((package / "meta/groups.json").read_text())
    lines = ["\t".join(row) + "\n" for row in wanted_rows(records, groups)]
    TABLE.write_text(_HEADER.format(version=version) + "".join(lines))
    print(f"{TABLE.name}: {len(lines)} emoji")


if __name__ == "__main__":
    main()
