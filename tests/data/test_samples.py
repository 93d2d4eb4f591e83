import json
import logging
import shutil

import pytest
import torch
from helpers.clips import grey, write_video
from helpers.items import make_items, same

from stgt.data.annotations import (
    load_answers,
    load_captions,
    load_questions,
    load_videos,
    require_disjoint,
    save_captions,
    save_questions,
)
from stgt.data.loader import read_batches
from stgt.data.samples import QuestionDataset, collate
from stgt.data.text import Tokenizer
from stgt.data.transforms import eval_transform
from stgt.data.video import VideoError, read_clip
from stgt.randomness import SeededItems

VIDEOS = ["a.mp4", "b.mp4", "broken.mp4", "sub/c.mp4"]
PAIRS = [
    {"video": "a.mp4", "caption": "the first clip gets lighter"},
    {"video": "b.mp4", "caption": ["the second clip", "another name of the second clip"], "source": "kept out"},
    {"video": "broken.mp4", "caption": "this clip cannot be read"},
    {"video": "sub/c.mp4", "caption": "a clip in a folder"},
    {"video": "a.mp4", "caption": "the first clip once more"},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    for number, name in enumerate(VIDEOS):
        write_video(folder / name, [frame + number for frame in grey(6 + 7 * number)])
    (folder / "broken.mp4").write_bytes((folder / "broken.mp4").read_bytes()[:400])
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([str(pair["caption"]) for pair in PAIRS], 100)


def write_json(path, value):
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def make(root, tokenizer, tmp_path):
    def make(entries=PAIRS, **options):
        return make_items(write_json(tmp_path / "pairs.json", entries), root, **{"tokenizer": tokenizer} | options)

    return make


def test_a_training_item_is_a_pair(make, root, tokenizer):
    pairs = make()
    assert len(pairs) == 6
    item = pairs[2]
    assert item["video"].shape == (4, 3, 16, 16) and item["video"].dtype == torch.float32
    assert item["caption"] == "another name of the second clip" and item["path"] == str(root / "b.mp4")
    assert tokenizer.decode(item["input_ids"]) == item["caption"] and item["attention_mask"].all()
    assert (item["index"], item["replaced"]) == (2, 0)
    assert pairs[0]["video_index"] != item["video_index"] == pairs[1]["video_index"]


def test_texts_are_padded_to_the_longest_of_their_batch(make):
    pairs = make()
    short, long = sorted((pairs[i] for i in (0, 2)), key=lambda item: len(item["input_ids"]))
    assert len(short["input_ids"]) < len(long["input_ids"])
    batch = collate([short, long])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, len(long["input_ids"]))
    assert torch.equal(batch["input_ids"][1], long["input_ids"])
    lengths = [len(short["input_ids"]), len(long["input_ids"])]
    assert batch["attention_mask"].sum(1).tolist() == lengths
    width = lengths[1] - 1  # the first token of a text is not predicted
    assert batch["predicted"].tolist() == [*range(lengths[0] - 1), *range(width, 2 * width)]


@pytest.mark.parametrize("sampling", ["uniform", "headtail"])
@pytest.mark.parametrize("cache", [False, True])
def test_an_item_depends_on_seed_epoch_and_index_alone(make, sampling, cache):
    plain, shuffled = (SeededItems(make(sampling=sampling, cache=cache), seed=5) for _ in range(2))
    forward = [plain[epoch, i] for epoch in range(2) for i in range(6)]
    torch.manual_seed(99)
    backward = [shuffled[epoch, i] for epoch in (1, 0) for i in reversed(range(6))]
    assert all(same(one, other) for one, other in zip(forward, reversed(backward), strict=True))
    assert not torch.equal(forward[0]["video"], forward[6]["video"])  # another epoch, another draw
    assert not same(SeededItems(make(sampling=sampling), seed=6)[0, 0], forward[0])


def test_cached_videos_are_the_decoded_ones(make):
    for train in (True, False):
        cached, decoded = make(train=train, cache=True), make(train=train)
        for index in (0, 1, 3):
            torch.manual_seed(1)
            one = cached[index]
            torch.manual_seed(1)
            assert same(one, decoded[index])


@pytest.mark.parametrize("cache", [False, True])
def test_a_video_comes_with_the_times_of_its_frames(make, root, cache):
    clips = make([PAIRS[1]], train=False, cache=cache)
    clip = read_clip(root / "b.mp4", 4)
    assert torch.equal(clips[0]["times"], clip.times) and len(set(clip.times.tolist())) == 4


def test_a_broken_video_takes_its_caption_with_it(make, caplog):
    pairs = make()
    with caplog.at_level(logging.WARNING):
        items = [SeededItems(pairs, seed)[0, 3] for seed in range(20)]
    assert {item["caption"] for item in items} <= {caption for _, caption in pairs.captions} - {PAIRS[2]["caption"]}
    assert len({item["index"] for item in items}) > 1
    for item in items:
        video, caption = pairs.captions[item["index"]]
        assert item["path"].endswith(pairs.videos[video]) and item["caption"] == caption
        assert item["replaced"] >= 1
    assert len(caplog.records) == sum(item["replaced"] for item in items)
    assert "broken.mp4" in caplog.text


def test_replacements_are_bounded(make):
    pairs = make([PAIRS[2]], max_replacements=3)
    with pytest.raises(VideoError, match=r"broken.mp4: .*all 3 pairs that were drawn in its place failed, too"):
        pairs[0]
    with pytest.raises(VideoError, match="broken.mp4"):
        make(max_replacements=0)[3]


@pytest.mark.parametrize("cache", [False, True])
def test_replacements_are_counted_across_workers(make, cache):
    places = [(0, 3), (0, 0), (0, 3)]
    loader = read_batches(SeededItems(make(cache=cache), 0), [places], workers=1, collate=collate)
    (batch,) = loader
    assert batch["replaced"] >= 2
    assert batch["video"].shape == (3, 4, 3, 16, 16)
    assert batch["input_ids"].shape == batch["attention_mask"].shape and len(batch["input_ids"]) == 3
    assert batch["index"].dtype == batch["video_index"].dtype == torch.int64
    assert len(batch["path"]) == len(batch["caption"]) == 3


@pytest.mark.parametrize("cache", [False, True])
def test_evaluation_lists_distinct_videos_and_replaces_nothing(make, root, cache):
    clips = make(train=False, cache=cache)
    assert clips.videos == VIDEOS and len(clips) == 4
    assert clips.captions[0] == (0, PAIRS[0]["caption"])
    assert clips.captions[1:3] == [(1, "the second clip"), (1, "another name of the second clip")]
    assert clips.captions[-1] == (0, "the first clip once more")
    assert clips[3].keys() == {"video", "times", "index", "path"} and clips[3]["path"] == str(root / "sub/c.mp4")
    state = torch.get_rng_state()
    assert torch.equal(clips[1]["video"], clips[1]["video"])
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(VideoError, match="broken.mp4"):
        clips[2]


def test_training_without_a_tokenizer_is_refused(make):
    with pytest.raises(ValueError, match="tokenizer is None"):
        make(tokenizer=None)


def test_an_annotation_without_its_video_is_refused(make, root):
    with pytest.raises(ValueError, match=rf"pairs.json: entry 1 is about {root}/gone.mp4"):
        make([PAIRS[0], {"video": "gone.mp4", "caption": "a"}])


@pytest.mark.parametrize(
    "video",
    [
        "http://127.0.0.1:9/a.mp4",
        "https://example.org/a.mp4",
        "concat:a.mp4|b.mp4",
        "subfile,,start,0,end,99,,:a.mp4",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
    ],
)
def test_addresses_and_protocols_are_no_files(video, make, root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(ValueError, match=r"pairs.json: entry 1 is about (.*): no such file of this name; .* no files"):
        make([PAIRS[0], {"video": video, "caption": "a"}])
    with pytest.raises(ValueError, match=r"entry 0 is about file:.*a.mp4: no such file of this name"):
        make([{"video": f"file:{root}/a.mp4", "caption": "a"}])


def test_a_path_that_is_no_ordinary_file_is_refused_with_its_kind(make, root):
    for video, kind in (("sub", "a folder"), ("/dev/null", "a device"), ("a" * 300 + ".mp4", "File name too long")):
        with pytest.raises(ValueError, match=f"pairs.json: entry 0 is about .*{video}: {kind}"):
            make([{"video": video, "caption": "a"}])


def test_absolute_paths_paths_upwards_and_odd_names_are_read(make, root, clips_beside):
    names = [str(root / "a.mp4"), f"../{root.name}/sub/c.mp4", *clips_beside]
    pairs = make([{"video": name, "caption": "a"} for name in names], train=False)
    assert pairs.videos == names and [pairs[index]["video"].shape[0] for index in range(len(names))] == [4] * len(names)


@pytest.fixture
def clips_beside(root):
    """Clips with names that look like an address, an option or another encoding."""
    names = ["a:b/c.mp4", "concat:x.mp4|y.mp4", "-i.mp4", "%03d.mp4"]
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / "a.mp4", root / name)
    yield names
    for name in names:
        (root / name).unlink()


@pytest.mark.parametrize(
    "entries, message",
    [
        ({}, "holds {}, expected a list"),
        ([], r"holds \[\], expected a list"),
        ([PAIRS[0], "a.mp4"], 'entry 1 is "a.mp4", expected an object'),
        ([PAIRS[0], {"caption": "a"}], "in entry 1 there is no 'video', expected a text"),
        ([{"video": 7, "caption": "a"}], "in entry 0 'video' is 7, expected a text"),
        ([{"video": "a.mp4"}], "in entry 0 there is no 'caption', expected a text or a list"),
        ([{"video": "a.mp4", "caption": []}], r"'caption' is \[\]"),
        ([{"video": "a.mp4", "caption": ["a", None]}], r"'caption' is \[\"a\", null\]"),
        ([{"video": "a.mp4", "caption": "  "}], "'caption' is \"  \""),
    ],
)
def test_malformed_annotations_are_named(tmp_path, entries, message):
    with pytest.raises(ValueError, match=f"pairs.json: .*{message}"):
        load_captions(write_json(tmp_path / "pairs.json", entries))


def test_files_that_are_no_annotations_are_named(tmp_path):
    with pytest.raises(ValueError, match="gone.json: no such file"):
        load_captions(tmp_path / "gone.json")
    (tmp_path / "text.json").write_text("video,caption\n")
    with pytest.raises(ValueError, match="text.json: not JSON"):
        load_captions(tmp_path / "text.json")


def test_captions_are_saved_as_they_are_read(tmp_path):
    clips = load_captions(write_json(tmp_path / "pairs.json", PAIRS))
    save_captions(clips, tmp_path / "again.json")
    assert load_captions(tmp_path / "again.json") == clips


QUESTIONS = [
    {"video": "a.mp4", "question": "which clip?", "answer": "the first", "question_id": 7},
    {"video": "b.mp4", "question": "which clip?", "answer": "never seen", "question_id": "b-1"},
    {"video": "a.mp4", "question": "what is it?", "answer": "the first", "question_id": 8},
]


@pytest.fixture
def ask(root, tmp_path):
    def ask(entries=QUESTIONS, train=True, **options):
        options = {"frames": 3, "transform": eval_transform(16), "train": train, **options}
        return QuestionDataset(write_json(tmp_path / "qa.json", entries), root, **options)

    return ask


def test_a_training_item_is_a_question(ask, root):
    questions = ask()
    assert len(questions) == 3
    first, second = questions[0], questions[1]
    assert first["video"].shape == (3, 3, 16, 16) and first["path"] == str(root / "a.mp4")
    assert first == first | {key: QUESTIONS[0][key] for key in ("question", "answer", "question_id")}
    assert (second["index"], second["replaced"], second["question_id"]) == (1, 0, "b-1")
    assert collate([first, second])["answer"] == ["the first", "never seen"]


def test_questions_of_one_video_share_it_in_evaluation(ask, root):
    videos = ask(train=False, cache=True)
    assert videos.videos == ["a.mp4", "b.mp4"] and len(videos) == 2
    assert videos[1].keys() == {"video", "times", "index", "path"}
    assert [(number, question.question_id) for number, question in videos.questions] == [(0, 7), (1, "b-1"), (0, 8)]


def test_a_broken_video_takes_its_question_with_it(ask):
    questions = ask([*QUESTIONS, QUESTIONS[0] | {"video": "broken.mp4", "question_id": 9}])
    item = questions[3]
    assert item["replaced"] >= 1 and item["question_id"] != 9


def test_answers_outside_the_vocabulary_are_named(ask, tmp_path):
    answers = write_json(tmp_path / "ans2label.json", {"the first": 1, "the second": 0})
    message = r"qa.json: in entry 1 'answer' is \"never seen\", expected one of the 2 answers in .*ans2label.json$"
    with pytest.raises(ValueError, match=message):
        ask(answers=answers)
    with pytest.raises(ValueError, match=r"ans2label.json \(2 of 4 entries have others\)$"):
        ask([*QUESTIONS, QUESTIONS[1] | {"question_id": 9}], answers=answers)
    ask(QUESTIONS[::2], answers=answers)


def test_videos_of_any_annotation(tmp_path):
    assert load_videos(write_json(tmp_path / "qa.json", QUESTIONS)) == ["a.mp4", "b.mp4"]
    assert load_videos(write_json(tmp_path / "pairs.json", PAIRS)) == VIDEOS


@pytest.mark.parametrize("key, value", [("answer", None), ("question", ""), ("video", []), ("question_id", True)])
def test_malformed_questions_are_named(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"in entry 1 '{key}' is"):
        load_questions(write_json(tmp_path / "qa.json", [QUESTIONS[0], QUESTIONS[1] | {key: value}]))


def test_questions_with_one_number_are_named(tmp_path):
    with pytest.raises(
        ValueError, match="qa.json: in entry 2 'question_id' is 7, expected one that no earlier entry has"
    ):
        load_questions(write_json(tmp_path / "qa.json", [*QUESTIONS[:2], QUESTIONS[2] | {"question_id": 7}]))


def test_annotations_in_another_encoding_are_named(tmp_path):
    (tmp_path / "pairs.json").write_bytes('[\n{"video": "a.mp4", "caption": "café"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match="pairs.json: line 2 is not UTF-8"):
        load_captions(tmp_path / "pairs.json")


def test_questions_are_saved_as_they_are_read(tmp_path):
    questions = load_questions(write_json(tmp_path / "qa.json", QUESTIONS))
    save_questions(questions, tmp_path / "again.json")
    assert load_questions(tmp_path / "again.json") == questions


@pytest.mark.parametrize("answers", [[], {}, {"a": "0"}, {"a": 1}, {"a": 0, "b": 0}, {"a": True, "b": 0}])
def test_malformed_answers_are_named(tmp_path, answers):
    with pytest.raises(ValueError, match="ans2label.json: .*expected"):
        load_answers(write_json(tmp_path / "ans2label.json", answers))


@pytest.mark.parametrize("other", ["./a.mp4", "sub/../a.mp4", ".//a.mp4", "{root}/a.mp4"])
def test_two_names_of_one_file_are_one_video(other, make, root):
    """The captions of one name counted as wrong for the other one, and in training each was a negative of the other."""
    other = other.format(root=root)
    entries = [{"video": "a.mp4", "caption": "a"}, {"video": "b.mp4", "caption": "b"}, {"video": other, "caption": "c"}]
    with pytest.raises(ValueError, match="pairs.json: a.mp4 and .*a.mp4 are one file, expected one name for it"):
        make(entries, train=False)
    if not other.startswith("/"):
        items = make(entries)
        assert [items[i]["video_index"] == items[0]["video_index"] for i in range(3)] == [True, False, True]
        with pytest.raises(ValueError, match="here: a.mp4 is in train and in val, expected it in one of them"):
            require_disjoint({"train": ["a.mp4"], "val": ["b.mp4", other]}, "here")
