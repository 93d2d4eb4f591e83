"""BLEU-4 and CIDEr-D are those of pycocoevalcap 1.2, whose numbers stand here, for the same words."""

import pytest

from stgt.data.text import Tokenizer
from stgt.evaluation.captions import bleu, caption_figures, cider_d, split_words

CAPTIONS = [
    "A red square moves to the left.",
    "a man is riding a horse on the beach",
    "two dogs play",
    "a a a a cat",
    "a woman cuts an onion and then an onion",
    "the",
]
REFERENCES = [
    ["a red square is moving to the left", "The red square moves left across the screen"],
    [
        "a man rides a horse along the beach",
        "someone is riding a horse on the sand",
        "a man is riding a brown horse on the beach",
    ],
    ["two dogs are playing in the snow", "dogs play with a ball"],
    ["a cat sleeps", "a black cat is sleeping on a sofa"],
    ["a woman is cutting an onion", "a woman cuts an onion in the kitchen"],
    ["a car drives down the road"],
]
CIDER_OF_EACH = [3.69913641, 5.16206102, 1.90399169, 1.62479848, 3.03832507, 0.08976567]


def test_the_figures_are_those_of_pycocoevalcap():
    figures = caption_figures(CAPTIONS, REFERENCES)
    assert figures == pytest.approx({"BLEU-4": 55.119154959, "CIDEr-D": 258.634638875}, abs=1e-6)
    assert sum(CIDER_OF_EACH) / len(CIDER_OF_EACH) == pytest.approx(figures["CIDEr-D"] / 100, abs=1e-6)


def test_a_caption_that_equals_its_only_reference_has_the_highest_scores():
    words = [["a", "red", "square", "grows"], ["two", "dogs", "play", "here"]]
    assert bleu(words, [[text] for text in words]) == pytest.approx(1)
    assert cider_d(words, [[text] for text in words]) == pytest.approx(10)


def test_bleu_gives_long_captions_nothing_beyond_their_shares():
    words = ["a", "red", "square", "moves", "left"]
    assert bleu([[*words, "twice"]], [[words]]) == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)


def test_captions_without_common_words_score_nothing():
    figures = caption_figures(["one two three four five", "x"], [["six seven eight nine ten"], ["y"]])
    assert figures == {"BLEU-4": 0, "CIDEr-D": 0}
    assert caption_figures([""], [["a cat"]]) == {"BLEU-4": 0, "CIDEr-D": 0}


def test_words_are_split_as_the_tokenizer_writes_them():
    """A tokenizer puts spaces around punctuation and drops accents. References are compared without them, too."""
    caption = "A T-shirt, isn't it? Ein Café — 3 Bälle_ हिन्दी"
    assert split_words(caption) == ["a", "t", "shirt", "isn", "t", "it", "ein", "cafe", "3", "balle", "हिनदी"]
    tokenizer = Tokenizer.train([caption] * 3, 200)
    ids, _ = tokenizer.encode([caption], 60)
    assert split_words(tokenizer.decode(ids[0])) == split_words(caption)


@pytest.mark.parametrize(("captions", "references"), [([], []), (["a"], []), (["a", "b"], [["a"], []])])
def test_numbers_that_do_not_match_are_errors(captions, references):
    with pytest.raises(ValueError, match="expected"):
        caption_figures(captions, references)
