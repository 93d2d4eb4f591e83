"""Prepositions of one or more words, such as "on", "out of", "next to" and "to the left of"."""

from __future__ import annotations

from dataclasses import dataclass

from stgt.finsta.graphs.text.words import Tree, Word

PLACES = frozenset({
    "front", "back", "top", "bottom", "side", "left", "right", "middle", "center", "centre", "rear", "edge", "inside",
    "outside", "corner",
})  # fmt: skip
"""Nouns that make one preposition with the words around them: "in front of", "to the left of\""""
_PLACING = ("to", "on", "in", "at", "from")


@dataclass(frozen=True)
class Preposition:
    """A preposition with all of its words."""

    words: list[Word]
    landmarks: list[Word]
    """The nouns that it leads to; none for "to the left" alone"""


def find_prepositions(tree: Tree) -> tuple[dict[int, Preposition], set[int]]:
    """The prepositions of a text by the number of their main word, and the numbers of the other words in them."""
    found: dict[int, Preposition] = {}
    inside: set[int] = set()
    for word in tree:
        is_one = word.dep in ("prep", "agent") or (word.pos == "ADP" and word.dep in ("pcomp", "advmod", "conj"))
        if is_one and word.i not in inside:
            found[word.i] = _grown(tree, word, inside)
            inside |= {other.i for other in found[word.i].words if other is not word}
    return found, inside


def _grown(tree: Tree, word: Word, inside: set[int]) -> Preposition:
    """The whole preposition that begins with a word. inside: the numbers of words that belong to other prepositions."""
    head = tree.head(word)
    words = [head, word] if head is not None and head.lower == "next" and head.pos == "ADV" else [word]
    last = word
    while True:
        landmarks = tree.children(last, "pobj")
        if landmarks and landmarks[0].lower in PLACES:
            place = landmarks[0]
            with_place = [*tree.children(place, "det", "amod", "compound"), place]
            after = [child for child in tree.children(place, "prep") if child.lower in ("of", "to")]
            if after:  # "in front of"
                words += [*with_place, after[0]]
                last = after[0]
                continue
            if word.lower in _PLACING:
                return Preposition([*words, *with_place], [])
        elif not landmarks:
            nested = [child for child in tree.children(last, "prep", "pcomp") if child.pos == "ADP"]
            if nested and nested[0].i not in inside:  # "out of"
                words.append(nested[0])
                last = nested[0]
                continue
        return Preposition(words, tree.with_conjuncts(landmarks))
