"""Questions in a manifest are those of the annotation it was made of, and wrong columns are named with their row."""

import json
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
from helpers.clips import grey, write_video
from helpers.items import same

from stgt.data.annotations import each_question, load_captions, load_questions, load_videos
from stgt.data.entries import Question
from stgt.data.manifest.cache import open_manifest
from stgt.data.samples import QuestionDataset
from stgt.data.transforms import train_transform
from stgt.randomness import SeededItems

pd = pytest.importorskip("pandas", reason="pip install pandas")
pytest.importorskip("pyarrow", reason="pip install pyarrow")

from stgt.data.manifest import write as write_module  # noqa: E402
from stgt.data.manifest.columns import BATCH  # noqa: E402

QUESTIONS = [
    {"video": "a.mp4", "question": "what is it?", "answer": "a clip", "question_id": 7},
    {"video": "b.mp4", "question": "who?", "answer": "nobody", "question_id": 3},
    {"video": "a.mp4", "question": "what colour?", "answer": "grey", "question_id": 8},
]
ANSWERS = {"a clip": 0, "nobody": 1, "grey": 2}
ROWS = {
    "video": ["a.mp4", "b.mp4"],
    "questions": [["what is it?", "what colour?"], ["who?"]],
    "answers": [["a clip", "grey"], ["nobody"]],
    "question_ids": [[7, 8], [3]],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("a.mp4", "b.mp4")):
        write_video(folder / name, [frame + 20 * number for frame in grey(8)])
    return folder


@pytest.fixture
def annotation(tmp_path):
    (tmp_path / "qa.json").write_text(json.dumps(QUESTIONS))
    (tmp_path / "ans2label.json").write_text(json.dumps(ANSWERS))
    return tmp_path / "qa.json"


def items(annotation, root, **options):
    options = {"train": True} | options
    return QuestionDataset(annotation, root, frames=2, transform=train_transform(16), **options)


def written(path, **columns):
    pd.DataFrame({name: values for name, values in (ROWS | columns).items() if values is not None}).to_parquet(path)
    return path


def by_id(questions):
    return sorted(questions, key=lambda question: str(question.question_id))


def test_a_manifest_gives_the_questions_of_the_annotation_it_was_made_of(annotation, root, tmp_path, stgt):
    manifest = tmp_path / "qa.parquet"
    status, printed = stgt("data", "manifest", annotation, "--out", manifest)
    assert status == 0 and "2 videos or images" in printed
    assert by_id(load_questions(manifest)) == by_id(load_questions(annotation))
    assert list(load_videos(manifest)) == ["a.mp4", "b.mp4"]
    plain, rows = items(annotation, root), items(manifest, root, answers=tmp_path / "ans2label.json")
    assert len(plain) == len(rows) == 3 and list(rows.questions) == [rows.questions[i] for i in range(3)]
    said = ("question", "answer", "video_index", "path", "replaced")
    ours, theirs = ({one[i]["question_id"]: [one[i][key] for key in said] for i in range(3)} for one in (plain, rows))
    assert ours == theirs and ours.keys() == {7, 3, 8}
    shown = items(manifest, root, train=False)
    assert len(shown) == 2 and [number for number, _ in shown.questions] == [0, 0, 1]


@pytest.mark.parametrize("ids", [[7, 8, 3], ["7", "a-8", "3"]])
def test_packed_questions_are_those_of_the_annotation_and_can_be_packed_again(ids, annotation, root, tmp_path, stgt):
    entries = [entry | {"question_id": identity} for entry, identity in zip(QUESTIONS, ids, strict=True)]
    annotation.write_text(json.dumps(entries))
    first = ("data", "pack", annotation, "--videos", root, "--out", tmp_path / "first")
    again = (
        "data",
        "pack",
        tmp_path / "first" / "qa.parquet",
        "--videos",
        tmp_path / "first",
        "--out",
        tmp_path / "again",
    )
    for command in (first, again):
        status, printed = stgt(*command)
        assert status == 0 and "2 videos or images in 1 shards" in printed
        assert by_id(load_questions(command[-1] / "qa.parquet")) == by_id(load_questions(annotation))
    packed = items(tmp_path / "again" / "qa.parquet", tmp_path / "again")
    assert sorted(str(packed[i]["question_id"]) for i in range(3)) == sorted(map(str, ids))
    assert packed[0]["replaced"] == 0


def test_rows_of_one_question_and_other_types_are_read(root, tmp_path):
    pd.DataFrame(QUESTIONS).astype({"question_id": "uint16", "answer": "category"}).to_parquet(tmp_path / "one.parquet")
    assert load_questions(tmp_path / "one.parquet") == [tuple(entry.values()) for entry in QUESTIONS]
    one = items(tmp_path / "one.parquet", root)
    assert one[0]["video_index"] == one[2]["video_index"] != one[1]["video_index"]
    with pytest.raises(
        ValueError, match="a.mp4 is in several rows, expected one row with all of its captions or quest"
    ):
        items(tmp_path / "one.parquet", root, train=False)
    bad = written(tmp_path / "bad.parquet", bad=[True, False], question_ids=[[3, 3], [3]])  # a bad row does not matter
    assert [question.question_id for question in load_questions(bad)] == [3]


def test_one_file_may_hold_captions_and_questions(root, tmp_path):
    both = written(tmp_path / "both.parquet", caption=["a clip", "another"])
    assert [clip.captions for clip in load_captions(both)] == [("a clip",), ("another",)]
    assert len(load_questions(both)) == len(items(both, root)) == 3
    assert list(load_videos(both)) == ["a.mp4", "b.mp4"]
    wrong = written(tmp_path / "wrong.parquet", caption=[1, 2])  # questions do not need this column
    assert list(load_videos(wrong, kind="questions")) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"questions": None}, "there is no column 'questions' with values"),
        ({"answers": None}, "there is no column 'answers' with values"),
        ({"question_ids": None}, "there is no column 'question_ids' with values"),
        (
            {"question_ids": [[1.5, 2.5], [3.5]]},
            "column 'question_ids' holds .*double.*, expected texts or whole numbers",
        ),
        ({"questions": [1, 2]}, "column 'questions' holds int64, expected texts or lists of texts"),
        ({"questions": [["what?", " "], ["who?"]]}, r"row 0: 'questions' is \[\"what\?\", \" \"\], expected a list of"),
        ({"answers": [["a clip", "grey"], [None]]}, r"row 1: 'answers' is \[null\], expected a list of texts"),
        ({"answers": [["a clip", "grey"], []]}, r"row 1: 'answers' is \[\], expected a list of texts"),
        ({"answers": [["a clip"], ["nobody"]]}, "row 0: 'answers' is .*, expected as many as there are questions"),
        ({"question_ids": [[7, 8], [3, 4]]}, "row 1: 'question_ids' is .*, expected as many as there are questions"),
        ({"question_ids": [["7", None], ["3"]]}, "row 0: 'question_ids' is .*null.*, expected a list of texts"),
        ({"question_ids": [[7, 8], [7]]}, "row 1: 'question_ids' holds the id of an earlier question"),
        ({"question_ids": [[8, 8], [7]]}, "row 0: 'question_ids' holds the id of an earlier question"),
    ],
)
def test_wrong_columns_and_rows_are_named(columns, message, tmp_path):
    with pytest.raises(ValueError, match=f"rows.parquet: {message}"):
        load_questions(written(tmp_path / "rows.parquet", **columns))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_numbers_and_texts_are_different_ids_and_one_file_holds_one_kind(annotation, tmp_path, stgt):
    annotation.write_text(json.dumps([QUESTIONS[0], QUESTIONS[1] | {"question_id": "7"}]))
    status, printed = stgt("data", "manifest", annotation, "--out", tmp_path / "qa.parquet")
    assert status == 2 and "qa.json: in entry 1 'question_id' is \"7\", and 7 in entry 0; expected all" in printed
    assert "expected all to be texts, or all whole numbers" in printed
    assert not (tmp_path / "qa.parquet").exists()
    texts = written(tmp_path / "texts.parquet", question_ids=[["07", "7"], ["n7"]])
    assert [question.question_id for question in load_questions(texts)] == ["07", "7", "n7"]


def test_the_first_rows_decide_the_kind_of_all_ids_also_beyond_the_first_group(tmp_path, monkeypatch):
    monkeypatch.setattr(write_module, "BATCH", 1)
    entries = [{"video": f"{i}.mp4", "question": "who?", "answer": "nobody", "question_id": i} for i in range(3)]
    for late in ("two", 2**63):
        (tmp_path / "qa.json").write_text(json.dumps([*entries[:2], entries[2] | {"question_id": late}]))
        with pytest.raises(ValueError, match="qa.json: in entry 2 'question_id' is .*, and 0 in entry 0; expected all"):
            write_module.write_manifest(tmp_path / "qa.json", tmp_path / "qa.parquet")
    texts = pytest.raises(ValueError, match="question_id: .*expected all to be texts")
    with texts, write_module.writing_manifest(tmp_path / "qa.parquet") as manifest:
        for entry in (entries[0], entries[1] | {"question_id": "one"}):
            manifest.add(entry["video"], [Question(*entry.values())])
    pd.DataFrame(entries).assign(question_id=5).to_parquet(tmp_path / "same.parquet")
    with pytest.raises(ValueError, match="row 1: 'question_id' holds the id of an earlier question"):
        load_questions(tmp_path / "same.parquet")


def test_questions_about_listed_videos_are_left_out_of_both_kinds_of_annotations(annotation, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps({"a.mp4": "broken"}))
    for path in (annotation, written(tmp_path / "qa.parquet")):
        assert [question.question_id for question in each_question(path, tmp_path / "bad.json")] == [3]


def test_an_answer_outside_the_list_is_named(annotation, root, tmp_path):
    rows = written(tmp_path / "rows.parquet", answers=[["a clip", "octarine"], ["octarine"]], bad=[True, False])
    with pytest.raises(
        ValueError, match="rows.parquet: in a question about b.mp4 'answer' is \"octarine\", expected one of the 3 an"
    ):
        items(rows, root, answers=tmp_path / "ans2label.json")


def test_questions_over_several_parts_belong_to_their_rows_and_cost_a_process_nothing(root, tmp_path):
    count = BATCH + 500
    lists = [[f"{i}, {j}?" for j in range(1 + i % 2)] for i in range(count)]
    numbers = iter(range(2 * count))
    frame = pd.DataFrame({"video": "a.mp4", "questions": lists, "answers": lists})
    frame["question_ids"] = [[next(numbers) for _ in texts] for texts in lists]
    frame["bad"] = [i == 1 for i in range(count)]
    frame.to_parquet(tmp_path / "many.parquet")
    many, few = items(tmp_path / "many.parquet", root), items(written(tmp_path / "few.parquet"), root)
    expected = [(i, text) for i, texts in enumerate(lists[:1] + lists[2:]) for text in texts]
    assert len(many) == len(expected)
    for place in (0, 1, 2 * 1000, BATCH * 3 // 2 - 2, BATCH * 3 // 2, len(expected) - 1):
        row, question = many.questions[place]
        assert (row, question.question, question.answer) == (*expected[place], expected[place][1])
        assert question.question_id == place + (2 if place else 0)
    assert len(ForkingPickler.dumps(many)) <= len(ForkingPickler.dumps(few)) + 200
    again = pickle.loads(pickle.dumps(many))
    assert same(SeededItems(again, 0)[0, 4321], SeededItems(many, 0)[0, 4321])
    frame.loc[count - 1, "question_ids"][:] = [5] * len(lists[-1])
    frame.to_parquet(tmp_path / "many.parquet")
    with pytest.raises(ValueError, match=f"row {count - 1}: 'question_ids' holds the id of an earlier question"):
        open_manifest(tmp_path / "many.parquet")
