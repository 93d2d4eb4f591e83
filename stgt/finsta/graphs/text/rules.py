"""The rules that turn a dependency tree into a textual scene graph.

Nouns are objects; their adjectives, nouns before them and numbers are attributes. Verbs are predicates, also those
without an object, and so are prepositions. A preposition ("sitting on") or a direction ("moving left") right after a
verb without an object belongs to the verb. Any other preposition is a predicate of its own, whose subject is the noun
or the verb before it. Verbs that "and" joins have the same subject. The noun before a relative clause or a participle
is the subject or the object of the verb in it. "then", "before", "after" and "while" give edges between predicates.
"""

from __future__ import annotations

from dataclasses import dataclass

from stgt.finsta.graphs.graph import EDGE_TYPES, TextEdge, TextGraph, TextNode
from stgt.finsta.graphs.text.prepositions import Preposition, find_prepositions
from stgt.finsta.graphs.text.words import DIRECTIONS, Tree, Word

NOUNS = ("NOUN", "PROPN", "PRON")
ORDER_WORDS = frozenset({"then", "afterwards", "first", "finally", "before", "after", "while"})
_MODIFIERS = ("amod", "compound", "nummod", "nmod", "det", "poss", "npadvmod", "quantmod", "expl")


def graph_of(words: list[Word]) -> TextGraph:
    """The scene graph of parsed sentences. Nodes are numbered in the order of the text."""
    builder = _Builder(Tree(words))
    builder.find_nodes()
    builder.join()
    return builder.graph()


@dataclass
class _Draft:
    kind: str
    words: list[Word]
    main: int
    """The number of its main word. The span of the node covers this word and those of its words that adjoin it"""


class _Builder:
    """The nodes and edges of a text that have been found so far."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.drafts: dict[int, _Draft] = {}
        """{number of its main word: node}"""
        self.edges: list[tuple[int, int, str]] = []
        self.prepositions, self.swallowed = find_prepositions(tree)
        self.merged: set[int] = set()
        """Prepositions that belong to a verb"""

    def find_nodes(self) -> None:
        for word in self.tree:
            if word.i in self.swallowed:
                continue
            if self._is_object(word):
                self._add("object", word, [word])
            elif word.pos == "VERB" and word.dep not in ("aux", "auxpass", *_MODIFIERS) and not self._only_is(word):
                self._add_verb(word)
        for word in [draft.words[0] for draft in self.drafts.values() if draft.kind == "object"]:
            for modifier in self.tree.with_conjuncts(self.tree.children(word, "amod", "compound", "nummod", "nmod")):
                self._add_attribute(word, modifier)
        for word in self.tree:
            if self._only_is(word):
                self._add_state(word)
        for number, preposition in self.prepositions.items():
            if number not in self.merged:
                self._add_preposition(self.tree.words[number], preposition)

    def _add(self, kind: str, main: Word, words: list[Word]) -> None:
        self.drafts[main.i] = _Draft(kind, sorted(words, key=lambda word: word.i), main.i)

    def _is_object(self, word: Word) -> bool:
        if word.pos not in NOUNS or word.tag in ("WDT", "WP", "WP$", "PRP$", "EX"):
            return False
        if word.dep == "poss":
            return True
        if word.dep == "conj" and (head := self.tree.head(word)) is not None and head.dep in _MODIFIERS:
            return False
        if word.dep == "attr" and not self._exists(word):
            return False
        return word.dep not in _MODIFIERS

    def _exists(self, word: Word) -> bool:
        """Whether a noun stands after "there is"."""
        head = self.tree.head(word)
        return head is not None and bool(self.tree.children(head, "expl"))

    def _only_is(self, word: Word) -> bool:
        """Whether a word is a form of "be", but not an auxiliary verb."""
        return word.lower in ("is", "are", "was", "were", "be", "'s", "'re") and word.dep not in (
            "aux",
            "auxpass",
            "case",
        )

    def _add_verb(self, verb: Word) -> None:
        words = [verb, *self.tree.children(verb, "neg", "prt")]
        adverbs = self.tree.with_conjuncts(self.tree.children(verb, "advmod"))
        if not self.tree.children(verb, "dobj", "dative", "oprd") and not self._is_passive(verb):
            words += [adverb for adverb in adverbs if adverb.i == verb.i + 1 and adverb.lower in DIRECTIONS]
            for preposition in self._prepositions(verb):
                found = self.prepositions[preposition.i]
                if found.words[0].i == verb.i + 1 and (found.landmarks or verb.dep == "relcl"):
                    words += found.words
                    self.merged.add(preposition.i)
        self._add("predicate", verb, words)
        for adverb in adverbs:
            known = adverb.i in self.swallowed or adverb in words or adverb.lower in ORDER_WORDS
            if adverb.pos == "ADV" and adverb.tag != "WRB" and not known:
                self._add("adverb", adverb, [*self.tree.children(adverb, "advmod"), adverb])
                self._edge(verb, adverb, "adverb")

    def _prepositions(self, verb: Word) -> list[Word]:
        """The prepositions of a verb. The one in "next to" depends on "next"."""
        holders = [verb, *(word for word in self.tree.children(verb, "advmod") if word.i in self.swallowed)]
        return [
            word for holder in holders for word in self.tree.children(holder, "prep") if word.i in self.prepositions
        ]

    def _add_attribute(self, thing: Word, modifier: Word) -> None:
        if modifier.i in self.drafts or modifier.i in self.swallowed or modifier.dep == "det":
            return
        degrees = [child for child in self.tree.children(modifier, "advmod", "amod") if child.i < modifier.i]
        self._add("attribute", modifier, [*degrees, modifier])
        self._edge(thing, modifier, "attribute")

    def _add_state(self, state: Word) -> None:
        """Add the words after "is" as attributes of its subject: "the car is red", "the man is a doctor"."""
        subjects = self._subjects(state)
        for said in self.tree.with_conjuncts(self.tree.children(state, "acomp", "attr")):
            if self._is_object(said):
                continue
            for subject in subjects:
                self._add("attribute", said, [*self.tree.children(said, "amod", "compound"), said])
                self._edge(subject, said, "attribute")

    def _add_preposition(self, word: Word, found: Preposition) -> None:
        head = self._governor(word)
        if head is None or word.dep == "agent":
            return
        if not found.landmarks:
            # "to the left" is an adverb of a verb ("moves to the left"), or an attribute of an object.
            if head.i in self.drafts and self.drafts[head.i].kind in ("predicate", "object") and len(found.words) > 1:
                kind = "adverb" if self.drafts[head.i].kind == "predicate" else "attribute"
                self._add(kind, word, found.words)
                self._edge(head, word, kind)
            return
        if not any(landmark.i in self.drafts for landmark in found.landmarks):
            return
        subjects = self._subjects(head) if self._only_is(head) else [head]
        subjects = [subject for subject in subjects if self._kind(subject) in ("object", "predicate")]
        if subjects:
            self._add("predicate", word, found.words)
            self.edges += [(word.i, subject.i, "subject") for subject in subjects]
            self._to_objects(word, found.landmarks)

    def _governor(self, word: Word) -> Word | None:
        """The noun or verb that a preposition belongs to."""
        head = self.tree.head(word)
        while head is not None and (head.dep == "prep" and head.i in self.prepositions or head.i in self.swallowed):
            head = self.tree.head(head)
        return head

    def join(self) -> None:
        for number in [n for n, draft in self.drafts.items() if draft.kind == "predicate"]:
            word = self.tree.words[number]
            if word.pos == "VERB":
                self._join_verb(word)
            self._order(word)
        for word in self.tree:
            if word.dep == "poss" and self._kind(word) == "object":
                self._possess(word)
            if self._only_is(word):
                self._order(word)

    def _join_verb(self, verb: Word) -> None:
        passive = self._is_passive(verb)
        role, other = ("object", "subject") if passive else ("subject", "object")
        for subject in self._subjects(verb):
            self._edge(verb, subject, role)
        for agent in self.tree.children(verb, "agent"):
            for noun in self.tree.with_conjuncts(self.tree.children(agent, "pobj")):
                self._edge(verb, noun, other)
        direct = [w for w in self.tree.children(verb, "dobj", "dative", "oprd") if not self._is_relative(w)]
        for noun in self.tree.with_conjuncts(direct):
            self._edge(verb, noun, "object")
        for preposition in self._prepositions(verb):
            if preposition.i in self.merged:
                self._to_objects(verb, self.prepositions[preposition.i].landmarks)
        head = self.tree.head(verb)
        if verb.dep == "relcl" and head is not None and self._misses_object(verb):
            self._edge(verb, head, "object")

    def _subjects(self, verb: Word) -> list[Word]:
        """The subjects of a verb or a form of "be". If it has none of its own, those that it shares with another."""
        head = self.tree.head(verb)
        own = self.tree.children(verb, "nsubj", "nsubjpass")
        if own and not self._is_relative(own[0]):
            return self.tree.with_conjuncts(own)
        if head is None:
            return []
        if verb.dep in ("relcl", "acl"):
            return self.tree.with_conjuncts([head]) if own or verb.dep == "acl" or not self._misses_object(verb) else []
        if verb.dep == "pcomp":
            governor = self._governor(head)
            return self._subjects(governor) if governor is not None and governor.pos in ("VERB", "AUX") else []
        if verb.dep == "xcomp" and (objects := self.tree.children(head, "dobj")):
            return self.tree.with_conjuncts(objects)
        if verb.dep in ("conj", "xcomp", "advcl", "ccomp") and head.pos in ("VERB", "AUX"):
            return self._subjects(head)
        return []

    def _is_relative(self, word: Word) -> bool:
        return word.tag in ("WDT", "WP", "WP$")

    def _misses_object(self, verb: Word) -> bool:
        """Whether the noun before a relative clause is the object in it: "the ball that the boy kicks"."""
        own = [w for w in self.tree.children(verb, "nsubj", "nsubjpass") if not self._is_relative(w)]
        return bool(own) and not [w for w in self.tree.children(verb, "dobj") if not self._is_relative(w)]

    def _is_passive(self, verb: Word) -> bool:
        if self.tree.children(verb, "nsubjpass", "auxpass"):
            return True
        if verb.tag != "VBN" or self.tree.children(verb, "nsubj", "aux"):
            return False
        head = self.tree.head(verb)
        return verb.dep == "acl" or (verb.dep == "conj" and head is not None and self._is_passive(head))

    def _possess(self, owner: Word) -> None:
        """Add a predicate for the apostrophe in "the man's dog", with the man as subject and the dog as object."""
        owned = self.tree.head(owner)
        for case in self.tree.children(owner, "case"):
            if owned is not None and self._kind(owned) == "object":
                self._add("predicate", case, [case])
                self._edge(case, owner, "subject")
                self._edge(case, owned, "object")

    def _order(self, later: Word) -> None:
        """Add the edges for "then", "before", "after" or "while" that depends on a predicate or on "is"."""
        said = {word.lower for word in self.tree.children(later, "advmod", "mark")}
        head = self.tree.head(later)
        if later.dep == "pcomp" and head is not None and head.lower in ("before", "after", "while"):
            said, head = {head.lower}, self._governor(head)
        if said & {"then", "afterwards"}:
            self._sequence(self._earlier(later), later, "order")
        elif "before" in said:
            self._sequence(head, later, "order")
        elif "after" in said:
            self._sequence(later, head, "order")
        elif "while" in said:
            self._sequence(head, later, "while")

    def _earlier(self, later: Word) -> Word | None:
        """The event before a verb with "then": the verb that it is joined to, or the nearest one before it."""
        head = self.tree.head(later)
        if later.dep == "conj" and head is not None and head.pos in ("VERB", "AUX"):
            joined = [w for w in self.tree.with_conjuncts([head]) if w.i < later.i and w.pos == head.pos]
            return joined[-1] if joined else head
        before = [
            w for w in self.tree
            if w.i < later.i and w.dep in ("ROOT", "conj", "ccomp") and (self._predicates(w) or self._only_is(w))
        ]  # fmt: skip
        return before[-1] if before else None

    def _sequence(self, first: Word | None, second: Word | None, kind: str) -> None:
        if first is not None and second is not None:
            for one in self._predicates(first):
                self.edges += [(one, other, kind) for other in self._predicates(second) if one != other]

    def _predicates(self, word: Word) -> list[int]:
        """The predicate of a verb, or the prepositions after "is"."""
        if self._kind(word) == "predicate":
            return [word.i]
        if self._only_is(word):
            return [child.i for child in self.tree.children(word, "prep") if self._kind(child) == "predicate"]
        return []

    def _kind(self, word: Word) -> str | None:
        return self.drafts[word.i].kind if word.i in self.drafts else None

    def _to_objects(self, predicate: Word, nouns: list[Word]) -> None:
        for noun in nouns:
            self._edge(predicate, noun, "object")

    def _edge(self, source: Word, target: Word, kind: str) -> None:
        self.edges.append((source.i, target.i, kind))

    def graph(self) -> TextGraph:
        drafts = sorted(self.drafts.values(), key=lambda draft: self._span(draft))
        place = {draft.main: number for number, draft in enumerate(drafts)}
        nodes = [
            TextNode(number, draft.kind, " ".join(word.lower for word in draft.words), self._span(draft))
            for number, draft in enumerate(drafts)
        ]
        edges = {TextEdge(place[s], place[t], kind) for s, t, kind in self.edges if self._fits(s, t, kind)}
        return TextGraph(tuple(nodes), tuple(sorted(edges)))

    def _fits(self, source: int, target: int, kind: str) -> bool:
        """Whether both ends are nodes of the right kinds, which they may not be if the parser got a sentence wrong."""
        first, second = EDGE_TYPES[kind]
        ends = [self._kind(self.tree.words[number]) for number in (source, target)]
        return ends[0] == first and ends[1] in second

    def _span(self, draft: _Draft) -> tuple[int, int]:
        """The characters of the words that stand next to each other, with the main word among them."""
        there = {word.i: word.span for word in draft.words}
        first = last = draft.main
        while first - 1 in there:
            first -= 1
        while last + 1 in there:
            last += 1
        return there[first][0], there[last][1]
