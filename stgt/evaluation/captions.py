"""BLEU-4 and CIDEr-D of generated captions, as papers on captioning report them.

Both compare word sequences of one to four words with those of the reference captions. The numbers are those of
pycocoevalcap for the same words. It splits captions into words with a Java program, so its words differ in rare cases:
it keeps "t-shirt" and accents. Ours are split as the model's tokenizer splits them, which cannot write either.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence

LONGEST = 4
"""The number of words in the longest sequences"""
SIGMA = 6.0
"""The difference of lengths that CIDEr-D tolerates"""
Sequences = tuple[Counter, ...]
"""The counts of sequences of one word, of two words, and so on"""


def caption_figures(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-4 and CIDEr-D, both times 100 as papers print them, so that CIDEr-D is at most 1000.

    captions: one for each video. references: the captions of each video, at least one.
    Raises ValueError for no captions, numbers that do not match, or a video without a reference.
    """
    if not captions or len(captions) != len(references):
        raise ValueError(f"captions has {len(captions)} entries, expected one for each of {len(references)} videos")
    if not all(references):
        raise ValueError("references: a video has none, expected at least one for each")
    words = [split_words(caption) for caption in captions]
    right = [[split_words(text) for text in texts] for texts in references]
    return {"BLEU-4": 100 * bleu(words, right), "CIDEr-D": 100 * cider_d(words, right)}


def split_words(caption: str) -> list[str]:
    """The words in lower case, without accents. Every other character separates words."""
    letters = [c for c in unicodedata.normalize("NFD", caption.lower()) if unicodedata.category(c) != "Mn"]
    return "".join(c if c.isalnum() or unicodedata.category(c) == "Mc" else " " for c in letters).split()


def sequences(words: Sequence[str]) -> Sequences:
    return tuple(Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in range(1, LONGEST + 1))


def bleu(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    """BLEU-4 of all captions together (Papineni et al., 2002), from 0 to 1.

    It is the geometric mean of four shares: of the captions' sequences of n words, those that a reference has, too. It
    is lowered if the captions are shorter than the references that are closest to them in length.
    """
    matched, total = [0] * LONGEST, [0] * LONGEST
    length = closest = 0
    for words, texts in zip(captions, references, strict=True):
        found, known = sequences(words), [sequences(text) for text in texts]
        length += len(words)
        closest += min((abs(len(text) - len(words)), len(text)) for text in texts)[1]
        for n in range(LONGEST):
            most = Counter()
            for counts in known:
                most |= counts[n]
            matched[n] += (found[n] & most).total()
            total[n] += found[n].total()
    if not all(matched):
        return 0.0
    brevity = min(0.0, 1 - closest / length)
    return math.exp(brevity + sum(math.log(m / t) for m, t in zip(matched, total, strict=True)) / LONGEST)


def cider_d(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    """The mean CIDEr-D of the captions (Vedantam et al., 2015), from 0 to 10; 0 for a single video.

    A caption and a reference are vectors of sequences, whose weights are their counts times the logarithm of how rare
    they are among the videos. The score is their cosine, in which a caption's repeated sequence counts no more often
    than in the reference, times a penalty for another length.
    """
    known = [[sequences(text) for text in texts] for texts in references]
    seen = Counter()
    for texts in known:
        seen.update({sequence for text in texts for counts in text for sequence in counts})
    scores = []
    for words, texts in zip(captions, known, strict=True):
        found = sequences(words)
        scores.append(10 * sum(_similarity(found, text, seen, len(known)) for text in texts) / len(texts))
    return sum(scores) / len(scores)


def _similarity(caption: Sequences, reference: Sequences, seen: Counter, videos: int) -> float:
    """seen: the number of videos whose references have a sequence."""
    difference = caption[1].total() - reference[1].total()  # pycocoevalcap counts pairs of words as the length
    cosines = 0.0
    for own, other in zip(caption, reference, strict=True):
        own, other = ({s: n * math.log(videos / max(1, seen[s])) for s, n in c.items()} for c in (own, other))
        norms = math.hypot(*own.values()) * math.hypot(*other.values())
        product = sum(min(weight, other[s]) * other[s] for s, weight in own.items() if s in other)
        cosines += product / norms if norms else 0.0
    return cosines / LONGEST * math.exp(-(difference**2) / (2 * SIGMA**2))
