"""Video question answering: the answers to all questions of a split, and their accuracy."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from stgt.config import DataConfig
from stgt.data.annotations import each_question
from stgt.data.entries import Question
from stgt.data.loader import parts, read_batches
from stgt.data.prompts import LanguageTokenizer
from stgt.data.samples import collate
from stgt.distributed import World
from stgt.files import file_hash, write_json
from stgt.models.vqa import VideoQA
from stgt.runs import Run
from stgt.terminal import say

QUESTION_WORDS = ("what", "who", "how", "when", "where", "which", "why", "whose")
ARTICLES = ("a", "an", "the")


def normalise(answer: str) -> str:
    """The answer in lower case, without punctuation and articles: "The T-shirt." becomes "t shirt".

    Marks stay, since the vowels of many scripts are marks: "कि" and "का" differ in nothing else.
    """
    letters = unicodedata.normalize("NFC", answer.lower().replace("'", "").replace("’", ""))
    words = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in letters).split()
    return " ".join([word for word in words if word not in ARTICLES] or words)


def question_word(question: str) -> str:
    """The question word that a question begins with, or "other"."""
    first = re.match(r"\W*(\w*)", question.lower()).group(1)
    return first if first in QUESTION_WORDS else "other"


def evaluate_answers(
    run: Run, data: DataConfig, out: Path, world: World, *, beams: int = 5, batch_size: int = 32
) -> dict:
    """Answer the questions of `data.test`, print and return the accuracy, and write each answer into `out`.

    Each process answers the questions about its share of the videos. All of them return the same.
    """
    videos = run.test_items(data, answers=data.answers)
    questions = [question for _, question in videos.questions]
    split = {
        "annotation": str(data.test),
        "sha256": file_hash(data.test),
        "videos": len(videos.videos),
        "questions": len(questions),
    }
    if world.is_main:
        say("{annotation}: {videos} videos, {questions} questions".format(**split))
        print(f"its SHA-256 is {split['sha256']}")
    numbers = parts(len(videos), batch_size)[world.rank :: world.size]
    own = {number for batch in numbers for number in batch}
    places = [place for place, (video, _) in enumerate(videos.questions) if video in own]
    read = read_batches(videos, numbers, workers=data.workers, collate=collate)
    batches = tqdm(read, "videos", len(numbers), unit="batch", disable=len(numbers) < 8 or not world.is_main)
    asked = [videos.questions[place] for place in places]
    found = predict(run.model, run.tokenizer, batches, asked, beams=beams, batch_size=batch_size)
    answer_at = {
        place: answer for pairs in world.collect([*zip(places, found, strict=True)]) for place, answer in pairs
    }
    answers = [answer_at[place] for place in range(len(questions))]
    figures = answer_figures(questions, answers)
    trained = each_question(data.train, data.bad_list) if data.train.is_file() else None
    guesses = {} if trained is None else frequent_answers(trained, questions)
    baselines = {name: answer_figures(questions, guess)["all"]["accuracy"] for name, guess in guesses.items()}
    if world.is_main:
        print(format_answers(figures, baselines))
        pairs = zip(questions, answers, strict=True)
        write_json(out, [question._asdict() | {"predicted": answer} for question, answer in pairs], indent=0)
    return {"split": split, "beams": beams, "answers": figures, "baselines": baselines}


@torch.inference_mode()
def predict(
    model: VideoQA,
    tokenizer: LanguageTokenizer,
    batches: Iterable[dict],
    questions: Sequence[tuple[int, Question]],
    *,
    beams: int = 5,
    batch_size: int = 32,
) -> list[str]:
    """The model's answer to each question. Each video is encoded once for all of its questions.

    batches: dicts with index (B,), the numbers of the videos, and video (B, T, 3, S, S) or tokens (B, T, 1+P, C).
    questions: pairs of the number of a video and a question.
    """
    device = model.language_proj.weight.device
    of_video: dict[int, list[int]] = {}
    for place, (video, _) in enumerate(questions):
        of_video.setdefault(video, []).append(place)
    answers: dict[int, str] = {}
    for batch in batches:
        queries, _ = model.encode_video(**{n: batch[n].to(device) for n in ("video", "tokens") if n in batch})
        asked = [(row, place) for row, video in enumerate(batch["index"].tolist()) for place in of_video[video]]
        for start in range(0, len(asked), batch_size):
            rows, places = zip(*asked[start : start + batch_size], strict=True)
            ids, mask = tokenizer.encode_prompts([questions[place][1].question for place in places])
            written = model.answer(
                queries[list(rows)], ids.to(device), mask.to(device), end=tokenizer.eos_token_id, beams=beams
            )
            answers.update(zip(places, tokenizer.decode(written), strict=True))
    return [answers[place] for place in range(len(questions))]


def answer_figures(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, dict[str, float]]:
    """Accuracy in percent for all questions and for each question word, the most frequent one first.

    Each of "all", "what", … has "questions" (their number), "accuracy" (exact match of answers after `normalise`) and
    "raw" (exact match of answers without it).
    """
    if len(questions) != len(answers):
        raise ValueError(f"answers has {len(answers)} entries, expected one for each of {len(questions)} questions")
    if not questions:
        raise ValueError("questions is empty, expected at least one")
    groups: dict[str, list[tuple[bool, bool]]] = {"all": []}
    for question, answer in zip(questions, answers, strict=True):
        right = (is_right(question, answer), answer == question.answer)
        for name in ("all", question_word(question.question)):
            groups.setdefault(name, []).append(right)
    figures = {}
    for name, rights in sorted(groups.items(), key=lambda group: -len(group[1])):
        accuracy, raw = (100.0 * sum(kind) / len(rights) for kind in zip(*rights, strict=True))
        figures[name] = {"questions": len(rights), "accuracy": accuracy, "raw": raw}
    return figures


def is_right(question: Question, answer: str) -> bool:
    """Whether an answer is the right one, after `normalise`, or as it is if nothing is left of the right one then."""
    right = normalise(question.answer)
    return normalise(answer) == right if right else answer.strip() == question.answer.strip()


def frequent_answers(train: Iterable[Question], test: Sequence[Question]) -> dict[str, list[str]]:
    """Answers to the test questions by three baselines that see no video.

    Each answers with the most frequent training answer: that of all questions, of questions with the same question
    word, or of the same question. If training lacks the same question, the last one counts by the question word.
    """
    asked: dict[tuple[str, ...], Counter] = {}
    for question in train:
        for key in _keys(question):
            asked.setdefault(key, Counter())[question.answer] += 1
    best = {key: answers.most_common(1)[0][0] for key, answers in asked.items()}

    def guesses(level: int) -> list[str]:
        """The answers by the most particular key that training has, up to the key of this level."""
        known = (next(key for key in reversed(_keys(question)[: level + 1]) if key in best) for question in test)
        return [best[key] for key in known]

    names = ("most frequent answer", "… of the question word", "… of the same question")
    return {name: guesses(level) for level, name in enumerate(names)}


def _keys(question: Question) -> list[tuple[str, ...]]:
    """The keys by which answers are counted: none, the question word, and the question word with the question."""
    word = question_word(question.question)
    return [(), (word,), (word, question.question)]


def format_answers(figures: dict[str, dict[str, float]], baselines: dict[str, float]) -> str:
    """The figures as a small table, with the accuracy of the baselines below it."""
    lines = [f"{'':8}{'questions':>10}{'accuracy':>10}{'raw':>8}"]
    for name, values in figures.items():
        lines.append(f"{name:8}{values['questions']:10}{values['accuracy']:10.1f}{values['raw']:8.1f}")
    if baselines:
        lines.append("accuracy of guesses that see no video:")
    first = next(iter(baselines), "")
    return "\n".join(lines + [f"  {name.replace('…', first)}: {value:.1f}" for name, value in baselines.items()])
