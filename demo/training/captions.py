"""Training captions: what may be said of each picture, as terms and as sampled sentences.

A *term* is a name, keyword, synonym, broader word or definition. A picture's concept carries a set of terms; a caption
is made of one or more of them, and every picture whose concept carries *all* terms of a caption is right for it. Knows
nothing of pixels and of tokens. Phrases of `queries.tsv` never become terms or captions.
"""

import json
import random
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from demo.training.pictures import emoji_records
from demo.training.wordnet import WordNet

_TEMPLATES = (
    "a picture of {}",
    "a drawing of {}",
    "an icon of {}",
    "{} emoji",
    "a {}",
    "the {}",
    "{} icon",
    "something with {}",
    "a cartoon {}",
    "{} clip art",
    "something like {}",
    "a kind of {}",
    "some {}",
    "picture with {}",
)
#: What a picture of each emojibase subgroup can be called in plain words.
_GROUP_PHRASES = {
    "face-smiling": "happy face,smiling face,positive emotion,cheerful smiley,someone who is happy",
    "face-affection": "loving face,face showing love,affection,someone in love",
    "face-tongue": "face sticking its tongue out,silly face,joking face",
    "face-neutral-skeptical": "neutral face,doubtful face,someone unimpressed",
    "face-sleepy": "tired face,sleepy face,someone who needs sleep",
    "face-unwell": "sick face,ill person,someone feeling unwell",
    "face-hat": "face with a hat,face wearing something on its head",
    "face-glasses": "face with glasses,face wearing eyewear",
    "face-concerned": "worried face,sad face,unhappy face,someone upset,negative emotion",
    "face-negative": "angry face,bad mood,evil face",
    "face-costume": "scary creature,costume face,halloween face",
    "cat-face": "cat with an expression,cartoon cat,funny kitty",
    "monkey-face": "monkey covering something",
    "heart": "symbol of love,love heart shape,romantic symbol",
    "hand-fingers-open": "open hand,hand sign,hand gesture with fingers",
    "hand-fingers-partial": "hand sign,finger gesture",
    "hand-single-finger": "pointing finger,hand that points somewhere",
    "hand-fingers-closed": "closed hand,hand gesture",
    "hands": "two hands,pair of hands,both hands together",
    "body-parts": "part of the body,body part,human anatomy",
    "person": "human being,somebody",
    "person-gesture": "person making a gesture,body language",
    "person-role": "person at work,someone with a job,worker in a uniform,occupation",
    "person-fantasy": "fantasy character,imaginary being,fairy tale figure",
    "person-activity": "person doing something,somebody moving",
    "person-sport": "person doing sport,athlete,someone exercising",
    "person-resting": "person relaxing,someone resting",
    "family": "people together,relatives,group of people",
    "animal-mammal": "mammal,furry animal,four legged animal,creature with fur",
    "animal-bird": "bird,animal with wings,animal with feathers,creature with a beak",
    "animal-amphibian": "amphibian,slimy green animal",
    "animal-reptile": "reptile,scaly animal,cold blooded animal",
    "animal-marine": "animal living in the sea,water animal,ocean creature",
    "animal-bug": "insect,small crawling animal,creepy crawly",
    "plant-flower": "flower,blossom,blooming plant",
    "plant-other": "plant,greenery,something that grows in the ground",
    "food-fruit": "fruit,sweet fruit to eat,healthy snack from a tree",
    "food-vegetable": "vegetable,healthy food from the garden,ingredient for a salad",
    "food-prepared": "prepared food,dish on a plate,something to eat for a meal,cooked meal",
    "food-asian": "asian food,dish from asia,oriental cuisine",
    "food-sweet": "dessert,sweet food,candy and treats,sugary snack",
    "drink": "drink,beverage,something to sip",
    "dishware": "tableware,things for eating,kitchen utensil",
    "place-map": "map,geography of the world",
    "place-geographic": "landscape,natural scenery,place outdoors in nature",
    "place-building": "building,house or other architecture,place in a town",
    "place-religious": "place of worship,religious building",
    "place-other": "place to visit,scenery of a city",
    "transport-ground": "land vehicle,vehicle on the road or rails,means of transport",
    "transport-water": "boat,vessel on water,means of transport at sea",
    "transport-air": "aircraft,vehicle in the air,means of transport through the sky",
    "time": "time,instrument showing the hour,clock",
    "sky-weather": "weather,sky,something seen above in the sky",
    "event": "celebration,festive thing,holiday",
    "award-medal": "prize,award for a winner",
    "sport": "sports equipment,thing used in sport,game played with a team",
    "game": "toy or game,something to play with,hobby",
    "arts-crafts": "art and craft,creative thing",
    "clothing": "clothing,something to wear,garment,fashion item",
    "sound": "sound,something loud to hear",
    "music": "music,listening to songs",
    "musical-instrument": "musical instrument,something that makes music",
    "phone": "telephone,device for calling people",
    "computer": "computer equipment,electronic device,technology",
    "light-video": "light or film equipment,photography and video",
    "book-paper": "something to read,paper and books,literature",
    "money": "money,finance and payment",
    "mail": "post and mail,letters and parcels",
    "writing": "thing to write with,writing tool,stationery",
    "office": "office supplies,desk equipment,paperwork",
    "lock": "lock and key,security",
    "tool": "tool,equipment for building or repair,hardware",
    "science": "science equipment,laboratory thing",
    "medical": "medical thing,healthcare,used by a doctor",
    "household": "household item,thing found at home,furniture and cleaning",
    "transport-sign": "public sign,information sign",
    "warning": "warning sign,sign saying something is forbidden",
    "arrow": "arrow,direction sign,pointer",
    "religion": "religious symbol,symbol of faith",
    "zodiac": "star sign,astrology symbol",
    "av-symbol": "media control button,player button",
    "math": "mathematics symbol,sign for calculating",
    "punctuation": "punctuation mark",
    "alphanum": "letters or numbers on a button,text in a square",
    "keycap": "number key,digit on a button",
    "geometric": "geometric shape,plain coloured shape",
}
#: Last words whose dictionary sense is not what the picture shows.
_SAYS_LITTLE = frozenset({"face", "button", "sign", "symbol", "person", "man", "woman", "mark", "hand", "eyes"})
#: From this many words on a term is a description, of which people say parts.
_LONG_TERM_WORDS = 5
#: Where the author's name or a number begins in a clip-art file's name.
_CLIPART_TITLE_NOISE = re.compile(
    r"\b(benji|park|architetto|francesco|ro|01|02|03|clip ?art|svg|dan|gerhard)\b.*", re.IGNORECASE
)


def clean(text: str) -> str:
    """Return `text` in lower case with single spaces and no punctuation that a person would not type."""
    return re.sub(r"[^a-z0-9'&+ -]+", " ", text.lower().replace("_", " ").replace("\u2019", "'")).strip()


def comparable(text: str) -> str:
    """Return `text` reduced to what decides whether two captions are the same phrase."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


@dataclass(slots=True)
class Concept:
    """What one thing can be called."""

    name: str
    terms: dict[str, float] = field(default_factory=dict)  # term -> how readily it is chosen

    def add(self, terms: list[str], weight: float) -> None:
        """Add `terms`; a term met again keeps its larger weight."""
        for term in map(clean, terms):
            if term:
                self.terms[term] = max(weight, self.terms.get(term, 0.0))


def build_concepts(folder: Path, keys: list[str], held_out_phrases: set[str]) -> dict[str, Concept]:
    """Return a concept for each distinct key, without any term equal to a held-out phrase.

    Args:
        folder: where the sources were fetched.
        keys: picture keys (emoji code points or clip-art paths).
        held_out_phrases: in `comparable` form.
    """
    wordnet = WordNet(folder / "debian/usr/share/wordnet")
    emoji = _emoji_concepts(folder)
    concepts: dict[str, Concept] = {}
    for key in dict.fromkeys(keys):
        concept = emoji[key] if key in emoji else _clipart_concept(folder, key)
        _add_wordnet(concept, wordnet)
        concept.terms = {t: w for t, w in concept.terms.items() if comparable(t) not in held_out_phrases}
        concepts[key] = concept
    return concepts


def _emoji_concepts(folder: Path) -> dict[str, Concept]:
    modules = folder / "node_modules"
    annotations = json.loads((modules / "cldr-annotations-full/annotations/en/annotations.json").read_text())
    cldr = annotations["annotations"]["annotations"]
    groups = json.loads((modules / "emojibase-data/meta/groups.json").read_text())["subgroups"]
    shortcodes = [
        json.loads((modules / f"emojibase-data/en/shortcodes/{name}.json").read_text())
        for name in ("cldr", "emojibase", "github", "iamcal", "joypixels")
    ]
    concepts = {}
    for key, record in emoji_records(folder).items():
        concept = Concept(clean(str(record["label"])))
        concept.add([concept.name], 6.0)
        concept.add([str(tag) for tag in record.get("tags", [])], 1.0)  # type: ignore[attr-defined]
        concept.add(cldr.get(str(record["emoji"]).replace("\ufe0f", ""), {}).get("default", []), 1.0)
        for table in shortcodes:
            codes = table.get(record["hexcode"], [])
            concept.add([codes] if isinstance(codes, str) else codes, 0.7)
        group = groups.get(str(record.get("subgroup", "")), "")
        concept.add(_GROUP_PHRASES.get(group, "").split(","), 0.35)
        concepts[key] = concept
    return concepts


def _clipart_concept(folder: Path, key: str) -> Concept:
    path = Path(key)
    words = _CLIPART_TITLE_NOISE.sub("", re.sub(r"[_-]+", " ", path.stem)).strip()
    svg = (folder / "debian/usr/share/openclipart/svg" / key).read_text(errors="replace")
    title = re.search(r"<dc:title[^>]*>([^<]{3,60})<", svg)
    subjects = re.findall(r"<rdf:li[^>]*>([^<]{3,30})<", svg)
    name = clean(title.group(1)) if title and "Clip Art" not in title.group(1) else clean(words)
    concept = Concept(name or clean(path.parent.name))
    concept.add([concept.name], 3.0)
    concept.add([subject for subject in subjects if not subject.isupper()][:12], 1.0)
    concept.add([part.replace("_", " ") for part in path.parts[:-1] if part not in ("unsorted", "special")], 0.5)
    return concept


def _add_wordnet(concept: Concept, wordnet: WordNet) -> None:
    """Add synonyms, broader words and the definition of what `concept` is called."""
    words = concept.name.split(" with ")[0].split()
    candidates = [" ".join(words[i:]) for i in range(len(words))]
    useful = (candidate for candidate in candidates if candidate not in _SAYS_LITTLE)
    synset = next((found for candidate in useful if (found := wordnet.synset(candidate))), None)
    if synset:
        concept.add(list(synset.words), 0.8)
        concept.add(list(synset.hypernyms[:6]), 0.3)
        concept.add([" ".join(synset.definition.split()[:14])], 0.6)


def _shorten(term: str, rng: random.Random) -> str:
    """Return a long term, such as a definition, with up to a third of its words left out; a short one as it is."""
    words = term.split()
    if len(words) < _LONG_TERM_WORDS:
        return term
    kept = sorted(rng.sample(range(len(words)), len(words) - rng.randrange(len(words) // 3 + 1)))
    return " ".join(words[i] for i in kept)


class CaptionSampler:
    """Draws captions for concepts and knows which concepts each caption fits."""

    def __init__(self, concepts: dict[str, Concept], held_out_phrases: set[str]) -> None:
        """Index `concepts`; their order defines the concept numbers used below."""
        self.concepts = list(concepts.values())
        self._held_out = held_out_phrases
        self._carriers: dict[str, set[int]] = defaultdict(set)
        for number, concept in enumerate(self.concepts):
            for term in concept.terms:
                self._carriers[term].add(number)
        self._choices = [(list(concept.terms), list(concept.terms.values())) for concept in self.concepts]

    def all_terms(self) -> list[str]:
        """Return every term once, for training the tokenizer."""
        return list(self._carriers)

    def sample(self, number: int, rng: random.Random) -> tuple[str, frozenset[int]]:
        """Return a caption for concept `number` and the numbers of all concepts it is right for."""
        while True:
            terms = self._draw_terms(number, rng)
            text = self._phrase(terms, rng)
            if comparable(text) not in self._held_out:
                carriers = set.intersection(*(self._carriers[term] for term in terms))
                return text, frozenset(carriers)

    def _draw_terms(self, number: int, rng: random.Random) -> list[str]:
        terms, weights = self._choices[number]
        if not terms:
            msg = f"concept {self.concepts[number].name!r} has no terms. This is a bug."
            raise RuntimeError(msg)
        count = rng.choices((1, 2, 3), (0.68, 0.22, 0.10))[0]
        return list(dict.fromkeys(rng.choices(terms, weights, k=count)))

    def _phrase(self, terms: list[str], rng: random.Random) -> str:
        said = [_shorten(term, rng) for term in terms]
        joined = rng.choice((" ", " ", " ", ", ", " and ", " with ")).join(said)
        return rng.choice(_TEMPLATES).format(joined) if rng.random() < 0.3 else joined  # noqa: PLR2004
