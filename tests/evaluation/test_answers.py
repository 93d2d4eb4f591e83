from collections import Counter

import pytest
import torch

from stgt.data.entries import Question
from stgt.evaluation.answers import (
    answer_figures,
    format_answers,
    frequent_answers,
    is_right,
    normalise,
    predict,
    question_word,
)


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("Red", "red"),
        ("the dog.", "dog"),
        ("A  cat, an owl!", "cat owl"),
        ("T-shirt", "t shirt"),
        ("the man's", "mans"),
        ("a", "a"),
        ("The", "the"),
        ("theatre", "theatre"),
        ("", ""),
        ("?!", ""),
        ("Café_noir", "café noir"),
        ("cafe\u0301", "café"),
        ("कितना?", "कितना"),
    ],
)
def test_answers_are_compared_without_case_punctuation_and_articles(answer, expected):
    assert normalise(answer) == expected
    assert normalise(expected) == expected


@pytest.mark.parametrize(
    "answer, right, same",
    [
        ("का", "कि", False),
        ("कि.", "कि", True),
        ("-", "+", False),
        ("", "?", False),
        ("+", "a", False),
        ("?", " ? ", True),
    ],
)
def test_answers_that_differ_in_marks_or_symbols_only(answer, right, same):
    """Normalising left nothing of these, so that every answer of this kind was right, even an empty one."""
    assert is_right(Question("a.mp4", "what?", right, 0), answer) is same


@pytest.mark.parametrize(
    "question, word",
    [
        ("What is it?", "what"),
        ("  who?", "who"),
        ('"How" many', "how"),
        ("is it red?", "other"),
        ("whatever?", "other"),
        ("", "other"),
    ],
)
def test_a_question_is_counted_under_its_first_word(question, word):
    assert question_word(question) == word


def questions(*pairs):
    return [Question("v.mp4", question, answer, number) for number, (question, answer) in enumerate(pairs)]


ASKED = questions(("what is it?", "The dog"), ("what now?", "cat"), ("who is it?", "man"), ("is it?", "yes"))


def test_accuracy_is_exact_match_normalised_and_raw_by_question_word():
    figures = answer_figures(ASKED, ["dog", "cat", "woman", "Yes"])
    assert figures == {
        "all": {"questions": 4, "accuracy": 75.0, "raw": 25.0},
        "what": {"questions": 2, "accuracy": 100.0, "raw": 50.0},
        "who": {"questions": 1, "accuracy": 0.0, "raw": 0.0},
        "other": {"questions": 1, "accuracy": 100.0, "raw": 0.0},
    }
    assert list(figures)[:2] == ["all", "what"]
    printed = format_answers(figures, {"most frequent answer": 12.34})
    assert "what             2     100.0    50.0" in printed and printed.endswith("most frequent answer: 12.3")


def test_figures_need_an_answer_to_each_question():
    with pytest.raises(ValueError, match="answers has 1 entries, expected one for each of 4 questions"):
        answer_figures(ASKED, ["dog"])
    with pytest.raises(ValueError, match="questions is empty"):
        answer_figures([], [])


def test_baselines_use_the_training_set_and_no_video():
    train = questions(
        ("what?", "a"), ("what is it?", "b"), ("what is it?", "b"),
        ("who?", "c"), ("who?", "c"), ("who?", "c"),
    )  # fmt: skip
    guesses = frequent_answers(train, questions(("who?", "x"), ("what?", "x"), ("what now?", "x"), ("where?", "x")))
    assert guesses["most frequent answer"] == ["c", "c", "c", "c"]
    assert guesses["… of the question word"] == ["c", "b", "b", "c"]
    assert guesses["… of the same question"] == ["c", "a", "b", "c"]


def test_the_most_frequent_answer_is_looked_for_once_for_each_key_and_not_for_each_question(monkeypatch):
    looks = []

    class Noted(Counter):
        def most_common(self, n=None):
            looks.append(n)
            return super().most_common(n)

    monkeypatch.setattr("stgt.evaluation.answers.Counter", Noted)
    guesses = frequent_answers(questions(("what?", "a"), ("who?", "b")), questions(*[("who?", "x")] * 50))
    assert guesses["… of the same question"] == ["b"] * 50
    assert len(looks) == 5  # of all questions, of two question words, and of two questions


class Echo:
    """A model and a tokenizer whose answer is the number of the video and the question."""

    eos_token_id = 0

    def __init__(self):
        self.language_proj, self.encoded, self.asked = torch.nn.Linear(1, 1), 0, []

    def encode_video(self, video):
        self.encoded += len(video)
        return video[:, None, None], {}

    def encode_prompts(self, texts):
        ids = torch.tensor([[int(text)] for text in texts])
        return ids, torch.ones_like(ids)

    def answer(self, queries, ids, mask, *, end, beams):
        self.asked.append(len(ids))
        return torch.stack([queries[:, 0, 0].long(), ids[:, 0]], 1)

    def decode(self, rows):
        return [f"{video} {question}" for video, question in rows.tolist()]


def test_each_question_is_asked_about_its_video_which_is_encoded_once():
    asked = [(2, "10"), (0, "11"), (2, "12"), (1, "13"), (0, "14"), (0, "15")]
    pairs = [(video, Question("v", text, "", number)) for number, (video, text) in enumerate(asked)]
    batches = [
        {"index": torch.tensor(part), "video": torch.tensor(part, dtype=torch.float32)} for part in ([0, 1], [2])
    ]
    echo = Echo()
    assert predict(echo, echo, batches, pairs, batch_size=3) == [f"{video} {text}" for video, text in asked]
    assert echo.encoded == 3 and echo.asked == [3, 1, 2]
