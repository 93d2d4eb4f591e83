"""The words of a text as a dependency tree, with a repair of an error that parsers often make in captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

DIRECTIONS = frozenset({"left", "right", "up", "down", "forward", "backward", "forwards", "backwards"})

_MOTION = ("mov", "go", "walk", "run", "driv", "slid", "fly", "roll", "turn", "swim", "crawl", "step", "swing")
"""The beginnings of verbs of motion; after these verbs, "right" and "left" are directions"""
_MISREAD = ("advcl", "ccomp", "xcomp", "dobj", "oprd", "acomp", "npadvmod", "conj", "dep", "prt")


@dataclass
class Word:
    """A word with its place in the tree. The names of parts of speech and dependencies are spaCy's for English."""

    i: int
    text: str
    pos: str
    tag: str
    dep: str
    head: int
    """The number of the word that it depends on; its own number for the root of a sentence"""
    span: tuple[int, int]
    """Its characters, [start, end)"""

    @property
    def lower(self) -> str:
        return self.text.lower()


class Tree:
    """The words of a text, each with the words that depend on it."""

    def __init__(self, words: list[Word]) -> None:
        self.words = words
        self._children: list[list[Word]] = [[] for _ in words]
        for word in words:
            if word.head != word.i:
                self._children[word.head].append(word)
        for word in words:
            self._repair_direction(word)

    def __iter__(self) -> Iterator[Word]:
        return iter(self.words)

    def head(self, word: Word) -> Word | None:
        """The word that a word depends on; None for the root of a sentence."""
        return None if word.head == word.i else self.words[word.head]

    def children(self, word: Word, *deps: str) -> list[Word]:
        """The words that depend on a word, in the order of the text. deps: in which ways; all ways if none is given."""
        return [child for child in self._children[word.i] if not deps or child.dep in deps]

    def with_conjuncts(self, words: list[Word]) -> list[Word]:
        """Words, and those that "and" or a comma joins to each of them."""
        found = []
        for word in words:
            same_kind = [c for c in self.children(word, "conj") if (c.pos == "VERB") == (word.pos == "VERB")]
            found += [word, *self.with_conjuncts(same_kind)]
        return found

    def _repair_direction(self, word: Word) -> None:
        """Make "left" in "is moving left slowly" an adverb of its verb.

        Parsers take it for a past tense or an object, or make "right" in "moving right behind a box" part of "behind".
        """
        head = self.head(word)
        if word.lower not in DIRECTIONS or head is None or self.children(word, "det", "nsubj", "aux", "amod", "poss"):
            return
        before = self.words[word.i - 1]
        if head.pos in ("ADV", "ADP") and word.dep in ("advmod", "npadvmod") and before.lower.startswith(_MOTION):
            self._make_adverb(word, before)
        elif head.pos == "VERB" and head.i < word.i and word.dep in _MISREAD:
            if word.dep == "prt" and self.children(head, "dobj"):
                return  # "up" in "picks up a cup"
            self._make_adverb(word, head)

    def _make_adverb(self, word: Word, verb: Word) -> None:
        """Make a word and its children depend on a verb, unless the verb itself depends on the word."""
        above: Word | None = verb
        while above is not None:
            if above is word:
                return
            above = self.head(above)
        word.pos, word.tag, word.dep = "ADV", "RB", "advmod"
        for moved in (word, *self._children[word.i]):
            self._children[moved.head].remove(moved)
            self._children[verb.i].append(moved)
            moved.head = verb.i
        self._children[verb.i].sort(key=lambda child: child.i)
