"""Manifests of other programs are read, wrong ones are refused with row and column, and rows cost no memory."""

import gc
import json
import os
import pickle
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.clips import grey, write_video
from helpers.items import make_items, same
from PIL import Image

from stgt.data.annotations import load_captions, load_questions, load_videos
from stgt.data.loader import read_batches
from stgt.data.manifest.cache import open_manifest
from stgt.data.names import is_image
from stgt.data.samples import RetrievalDataset, collate
from stgt.data.text import Tokenizer
from stgt.data.transforms import eval_transform
from stgt.data.video import VideoError
from stgt.randomness import SeededItems

pd = pytest.importorskip("pandas", reason="pip install pandas")
pa = pytest.importorskip("pyarrow", reason="pip install pyarrow")
pq = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")

from stgt.data.manifest.columns import BATCH  # noqa: E402
from stgt.data.manifest.write import write_manifest, writing_manifest  # noqa: E402

ROWS = [
    {"video": "a.mp4", "caption": ["the first clip gets lighter", "one more caption"]},
    {"video": "b.mp4", "caption": "the second clip"},
    {"video": "sub/c.mp4", "caption": "a clip in a folder"},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    for number, row in enumerate(ROWS):
        write_video(folder / row["video"], [frame + number for frame in grey(6 + 7 * number)])
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([str(row["caption"]) for row in ROWS], 100)


@pytest.fixture
def make(root, tokenizer):
    return lambda annotation, **options: make_items(annotation, root, **{"tokenizer": tokenizer} | options)


def write_json(path, value):
    path.write_text(json.dumps(value))
    return path


def test_a_manifest_gives_the_same_items_as_the_annotation_it_was_made_of(make, tmp_path, stgt):
    annotation, manifest = write_json(tmp_path / "train.json", ROWS), tmp_path / "train.parquet"
    status, printed = stgt("data", "manifest", annotation, "--out", manifest)
    assert status == 0 and "3 videos or images" in printed
    plain, packed = SeededItems(make(annotation), 5), SeededItems(make(manifest), 5)
    assert len(plain) == len(packed) == 4
    assert all(same(plain[epoch, i], packed[epoch, i]) for epoch in range(2) for i in range(4))
    shown, again = make(annotation, train=False), make(manifest, train=False)
    assert list(again.videos) == list(shown.videos) and list(again.captions) == list(shown.captions)
    assert all(same(shown[i], again[i]) for i in range(3))
    assert load_captions(manifest) == load_captions(annotation)
    assert list(load_videos(manifest)) == load_videos(annotation)


def test_a_manifest_gives_the_same_batches_in_other_processes(make, tmp_path):
    write_manifest(write_json(tmp_path / "train.json", ROWS), tmp_path / "train.parquet")
    items = SeededItems(make(tmp_path / "train.parquet"), 1)
    places = [[(0, 3), (0, 0)], [(0, 1), (0, 2)]]
    batches = list(read_batches(items, places, workers=1, collate=collate))
    assert all(
        same(batch, collate([items[place] for place in part])) for batch, part in zip(batches, places, strict=True)
    )


@pytest.mark.parametrize("kind", ["pandas", "large", "dictionary", "view", "chunked", "integers", "caption"])
def test_files_of_other_programs_are_read(kind, tmp_path):
    path = tmp_path / "rows.parquet"
    videos, shards, captions = ["x.mp4", "y.mp4", "z.mp4"], [None, "s/0.tar", "s/0.tar"], [["a", "b"], ["c"], ["d"]]
    columns = {
        "video": videos,
        "captions": captions,
        "shard": shards,
        "offset": [None, 512, 2048],
        "size": [None, 7, 9],
    }
    if kind == "pandas":  # numbers with gaps are floats, and there is a column of the index
        pd.DataFrame({**columns, "bad": [None, False, None], "note": 3}, index=list("pqr")).to_parquet(path)
    elif kind == "caption":
        columns["caption"] = [texts[0] for texts in columns.pop("captions")]
        pd.DataFrame(columns).astype({"shard": "category"}).to_parquet(path)
    elif kind == "chunked":
        pd.DataFrame(columns).to_parquet(path, row_group_size=1, compression="zstd")
    else:
        table = pa.table(columns)
        names = {
            "large": pa.large_string(),
            "view": pa.string_view(),
            "dictionary": pa.dictionary(pa.int32(), pa.string()),
        }
        text = names.get(kind, pa.string())
        lists = pa.large_list(text) if kind == "large" else pa.list_(text)
        number = pa.int32() if kind == "integers" else pa.uint64()
        types = {"video": text, "captions": lists, "shard": text, "offset": number, "size": number}
        pq.write_table(table.cast(pa.schema(types)), path)
    manifest = open_manifest(path)
    assert list(manifest) == [manifest[i] for i in range(3)] == ["x.mp4", "s/0.tar/y.mp4", "s/0.tar/z.mp4"]
    assert manifest.row(0) == ("x.mp4", None, None, None, False)
    assert manifest.row(2) == ("z.mp4", "s/0.tar", 2048, 9, False)
    pairs = [(0, "a"), (1, "c"), (2, "d")] if kind == "caption" else [(0, "a"), (0, "b"), (1, "c"), (2, "d")]
    assert list(manifest.pairs) == [manifest.pairs[i] for i in range(len(pairs))] == pairs
    assert manifest.pairs[1:3] == pairs[1:3] and manifest.shards() == ["s/0.tar"]


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"video": None}, "there is no column 'video' with values, only caption"),
        ({"caption": None}, "there is no column 'captions' with values, only video"),
        ({"caption": [None, None]}, "there is no column 'captions' with values"),
        ({"video": [1, 2]}, "column 'video' holds int64, expected texts"),
        ({"caption": [1.5, 2.5]}, "column 'caption' holds double, expected texts or lists of texts"),
        ({"image": [0, 1]}, "column 'image' holds int64, expected true or false"),
        ({"shard": ["s", "t"]}, "there is no column 'offset' with values"),
        (
            {"shard": ["s", "t"], "offset": ["1", "2"], "size": [1, 2]},
            "column 'offset' holds .*, expected whole numbers",
        ),
        ({"video": ["a.mp4", " "]}, "row 1: 'video' is \" \", expected a text"),
        ({"video": [None, "a.mp4"]}, "row 0: 'video' is null, expected a text"),
        ({"caption": ["a", None]}, "row 1: 'caption' is null, expected a text"),
        ({"captions": [["a"], []]}, r"row 1: 'captions' is \[\], expected a list of texts"),
        ({"captions": [["a"], None]}, "row 1: 'captions' is null"),
        ({"captions": [["a"], ["b", None]]}, r"row 1: 'captions' is \[\"b\", null\]"),
        ({"captions": [["a", "  "], ["b"]]}, r"row 0: 'captions' is \[\"a\", \"  \"\]"),
        (
            {"shard": ["s", "t"], "offset": [512, 1.5], "size": [1, 2]},
            "row 1: 'offset' is 1.5, expected a whole number",
        ),
        ({"shard": ["s", "t"], "offset": [512, 511], "size": [1, 2]}, "row 1: 'offset' is 511, .* at least 512"),
        ({"shard": ["s", "t"], "offset": [512, 512], "size": [None, 2]}, "row 0: 'size' is null, .* names a shard"),
        (
            {"shard": ["s", ""], "offset": [512, 512], "size": [1, 2]},
            "row 1: 'shard' is \"\", expected a text, or null",
        ),
        ({"bad": [True, True]}, "none of its 2 rows is left"),
    ],
)
def test_wrong_columns_and_rows_are_named(columns, message, tmp_path):
    columns = {"video": ["a.mp4", "b.mp4"], "caption": ["a", "b"]} | columns
    pd.DataFrame({name: values for name, values in columns.items() if values}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=f"rows.parquet: {message}"):
        open_manifest(tmp_path / "rows.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_the_row_of_a_fault_counts_bad_rows_and_those_of_earlier_parts(tmp_path):
    frame = pd.DataFrame({"video": [f"{i}.mp4" for i in range(BATCH + 9)], "caption": "a", "bad": False})
    frame.loc[:4, "bad"] = True
    frame.loc[[2, BATCH + 5], "caption"] = " "  # the first of them is bad, so nothing in it matters
    frame.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=f"row {BATCH + 5}: 'caption' is \" \""):
        open_manifest(tmp_path / "rows.parquet")


def test_texts_that_are_not_utf8_and_files_that_are_no_parquet_are_named(tmp_path):
    latin = pa.array([b"a", "café".encode("latin-1")], pa.binary())
    text = pa.StringArray.from_buffers(2, *latin.buffers()[1:])
    pq.write_table(pa.table({"video": ["a.mp4", "b.mp4"], "caption": text}), tmp_path / "latin.parquet")
    with pytest.raises(ValueError, match="latin.parquet: row 1: 'caption' is not UTF-8"):
        open_manifest(tmp_path / "latin.parquet")
    (tmp_path / "text.parquet").write_text("video,caption\n" * 9)
    with pytest.raises(ValueError, match="text.parquet: not a Parquet file"):
        open_manifest(tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="gone.parquet: no such file"):
        open_manifest(tmp_path / "gone.parquet")
    pq.write_table(
        pa.table({"video": ["a.mp4"] * 5000, "caption": [f"a {i}" for i in range(5000)]}), tmp_path / "x.parquet"
    )
    whole = bytearray((tmp_path / "x.parquet").read_bytes())
    whole[100:8000] = bytes(7900)
    (tmp_path / "x.parquet").write_bytes(whole)
    with pytest.raises(ValueError, match="x.parquet: the file is damaged near row"):
        open_manifest(tmp_path / "x.parquet")


def test_endings_tell_images_from_videos_as_for_other_annotations(tmp_path):
    names = ["a.jpg", "b.PNG", "c.mp4", "d", "e.v2/f", "e.v2/g.webm", "h.jpeg.avi", ".hidden", "i.webp", "j."]
    pd.DataFrame({"video": names, "caption": "a"}).to_parquet(tmp_path / "rows.parquet")
    manifest = open_manifest(tmp_path / "rows.parquet")
    assert (
        manifest.images.tolist() == [manifest.still(i) for i in range(len(names))] == [is_image(name) for name in names]
    )
    said = [None, False, True] + [None] * 7
    pd.DataFrame({"video": names, "caption": "a", "image": said}).to_parquet(tmp_path / "said.parquet")
    assert open_manifest(tmp_path / "said.parquet").images.tolist()[:4] == [True, False, True, True]


def test_pairs_over_several_parts_belong_to_their_rows(tmp_path):
    count = BATCH + 1000
    with writing_manifest(tmp_path / "rows.parquet") as writer:
        for i in range(count):
            writer.add(f"{i}.mp4", [f"{i}, {j}" for j in range(1 + i % 3)], image=i % 2 == 0)
    manifest = open_manifest(tmp_path / "rows.parquet")
    expected = [(i, f"{i}, {j}") for i in range(count) for j in range(1 + i % 3)]
    assert len(manifest) == count and len(manifest.pairs) == len(expected)
    places = [*range(0, len(expected), 997), 2 * BATCH - 1, 2 * BATCH, len(expected) - 1]
    assert [manifest.pairs[i] for i in places] == [expected[i] for i in places]
    assert torch.equal(manifest.images, torch.tensor([i % 2 == 0 for i, _ in expected]))
    with pytest.raises(IndexError):
        manifest.pairs[len(expected)]


def test_the_rows_are_converted_once_for_each_state_of_the_file(tmp_path, monkeypatch, caplog):
    path = tmp_path / "rows.parquet"
    frame = pd.DataFrame({"video": ["a.mp4", "b.mp4"], "caption": ["a", "b"]})
    frame.to_parquet(path)
    first = open_manifest(path)
    made = os.stat(first.file).st_ino
    assert os.stat(open_manifest(path).file).st_ino == made
    listed = open_manifest(path, {"b.mp4"})
    assert list(listed) == ["a.mp4"] and listed.left_out == 1 and os.stat(open_manifest(path).file).st_ino == made
    frame.assign(caption=["c", "d"]).to_parquet(path)
    os.utime(path, ns=(0, 0))
    assert list(open_manifest(path).pairs) == [(0, "c"), (1, "d")]
    assert list(pickle.loads(pickle.dumps(first)).pairs) == [(0, "a"), (1, "b")]  # a living run can read on
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may write everywhere
    assert open_manifest(path).file.startswith(str(tmp_path / "cache"))


def test_a_manifest_that_was_replaced_is_noticed_also_if_its_size_and_time_of_change_are_the_same(tmp_path):
    path, sizes = tmp_path / "m.parquet", set()
    for captions in (["a red cat", "a blue dog"], ["a blue cat", "a red dog"]):
        pd.DataFrame({"video": ["a.mp4", "b.mp4"], "caption": captions}).to_parquet(path, compression=None)
        os.utime(path, ns=(0, 0))  # as tar and images of containers set it
        sizes.add(path.stat().st_size)
        assert [*open_manifest(path).said()] == [[caption] for caption in captions]
    assert len(sizes) == 1


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_an_arrow_file_that_is_cut_off_is_made_again(kept, tmp_path, caplog):
    pd.DataFrame({"video": ["a.mp4", "b.mp4"], "caption": ["a", "b"]}).to_parquet(tmp_path / "m.parquet")
    file = Path(open_manifest(tmp_path / "m.parquet").file)
    file.write_bytes(file.read_bytes()[:kept])
    assert list(open_manifest(tmp_path / "m.parquet").pairs) == [(0, "a"), (1, "b")]
    assert f"{file} cannot be read, and is made again" in caplog.text


def test_arrow_files_that_nobody_uses_any_more_are_removed_when_another_one_is_made(tmp_path):
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"video": ["a.mp4", "b.mp4", "c.mp4"], "caption": "a"}).to_parquet(path)
    unused, used, held, other = (open_manifest(path, names) for names in ({"a.mp4"}, {"b.mp4"}, {"c.mp4"}, {"d.mp4"}))
    files = [each.file for each in (used, held, other)]
    for manifest in (unused, used, held):
        os.utime(manifest.file, ns=(0, 0))
    pickle.loads(pickle.dumps(used))
    del unused, used, manifest
    gc.collect()
    last = open_manifest(path)
    assert {str(file) for file in tmp_path.glob(".*.arrow")} == {*files, last.file}
    assert list(pickle.loads(pickle.dumps(held))) == ["a.mp4", "b.mp4"]  # as a reader does that starts late


def test_a_blank_former_name_counts_as_none(tmp_path):
    blanks = {"a.mp4": "", "b.mp4": " ", "c.mp4": None}
    rows = [{"video": video, "caption": "a", "packed_from": blank} for video, blank in blanks.items()]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    manifest = open_manifest(tmp_path / "rows.parquet")
    assert [*manifest.identities()] == [*map(manifest.identity, range(3))] == [*blanks]


def test_rows_about_one_video_have_one_number_and_rows_of_a_json_file_have_the_same(make, tmp_path):
    rows = [{"video": row["video"], "caption": text} for row in ROWS for text in np.atleast_1d(row["caption"])]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    split = make(tmp_path / "rows.parquet")
    found = [split[index]["video_index"] for index in range(4)]
    assert found[0] == found[1] and len(set(found)) == 3
    loose = make(write_json(tmp_path / "rows.json", ROWS))
    assert [loose[index]["video_index"] for index in range(4)] == found
    with pytest.raises(ValueError, match="a.mp4 is in several rows"):
        make(tmp_path / "rows.parquet", train=False)


def test_a_data_set_is_sent_to_other_processes_in_few_bytes(make, tmp_path, root):
    rows = [{"video": "a.mp4", "caption": f"caption number {i} of many"} for i in range(5000)]
    write_json(tmp_path / "many.json", rows)
    few = make(write_json(tmp_path / "few.json", rows[:5]))
    pd.DataFrame(rows).to_parquet(tmp_path / "many.parquet")
    for items in (make(tmp_path / "many.json"), make(tmp_path / "many.parquet")):
        assert len(items) == len(items.images) == 5000
        assert len(ForkingPickler.dumps(items)) <= len(ForkingPickler.dumps(few)) + 200
        again = pickle.loads(pickle.dumps(items))
        assert same(SeededItems(again, 0)[0, 4321], SeededItems(items, 0)[0, 4321])


def test_a_missing_file_is_replaced_and_no_file_is_looked_up_at_the_start(make, tmp_path, caplog, monkeypatch):
    rows = [*ROWS, {"video": "gone.mp4", "caption": "x"}, {"video": "gone.jpg", "caption": "y"}]
    with writing_manifest(tmp_path / "rows.parquet") as writer:
        for row in rows:
            writer.add(row["video"], [row["caption"]] if isinstance(row["caption"], str) else row["caption"])
    with monkeypatch.context() as patch:
        looked = []
        stat = os.stat
        patch.setattr(os, "stat", lambda path, **options: looked.append(str(path)) or stat(path, **options))
        items = make(tmp_path / "rows.parquet")
        assert not [path for path in looked if path.endswith((".mp4", ".jpg"))]
    found = [SeededItems(items, seed)[0, 4] for seed in range(10)]
    assert all(item["replaced"] >= 1 and not item["path"].endswith(("gone.mp4", ".jpg")) for item in found)
    assert "gone.mp4: no such file; another pair takes the place" in caplog.text
    with pytest.raises(VideoError, match="gone.jpg: no such file"):  # an image is replaced by an image
        items[5]


def test_bad_rows_and_listed_ones_are_left_out_with_a_warning(make, tmp_path, caplog):
    frame = pd.DataFrame({"video": ["a.mp4", "b.mp4", "gone.mp4"], "caption": "a", "bad": [False, False, True]})
    frame.to_parquet(tmp_path / "rows.parquet")
    assert len(make(tmp_path / "rows.parquet")) == 2
    assert "1 of 3 entries are left out, its column bad says so" in caplog.text
    items = make(tmp_path / "rows.parquet", bad_list=write_json(tmp_path / "bad.json", {"b.mp4": "broken"}))
    assert list(items.videos) == ["a.mp4"] and "2 of 3 entries are left out" in caplog.text


def test_uses_that_a_manifest_is_not_for_are_refused(make, tmp_path):
    pd.DataFrame({"video": ["a.mp4", "a.mp4"], "caption": ["a", "b"]}).to_parquet(tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match="twice.parquet: a.mp4 is in several rows, expected one row"):
        make(tmp_path / "twice.parquet", train=False)
    pd.DataFrame({"video": ["a.mp4", "b.jpg"], "caption": ["a", "b"]}).to_parquet(tmp_path / "mixed.parquet")
    with pytest.raises(ValueError, match="b.jpg is an image and a.mp4 is a video"):
        make(tmp_path / "mixed.parquet", train=False)
    with pytest.raises(ValueError, match="mixed.parquet: there is no column 'questions' with values, only video, cap"):
        load_questions(tmp_path / "mixed.parquet")


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_reading_does_not_need_more_memory_with_each_epoch(kind, tokenizer, tmp_path):
    """A process that reads all pairs again and again keeps nothing of them, so fewer new objects than pairs stay."""
    count = 200
    rows = [{"video": f"{i}.jpg", "caption": f"caption number {i}"} for i in range(count)]
    Image.new("RGB", (8, 8)).save(tmp_path / "0.jpg")
    for row in rows[1:]:
        os.link(tmp_path / "0.jpg", tmp_path / row["video"])
    write_json(tmp_path / "rows.json", rows)
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    options = {"frames": 1, "transform": eval_transform(8), "tokenizer": tokenizer, "train": True}
    items = SeededItems(RetrievalDataset(tmp_path / f"rows.{kind}", tmp_path, **options), 0)

    def objects_after(epoch):
        for i in range(count):
            items[epoch, i]
        gc.collect()
        return sys.getallocatedblocks()

    objects = [objects_after(epoch) for epoch in range(6)]
    # If an object were kept for each pair, any two epochs would add twice `count`. Caches grow in some only.
    assert min(later - earlier for earlier, later in zip(objects, objects[2:], strict=False)) < count


@pytest.mark.parametrize("name", ["train.json", "train"])
def test_a_manifest_is_not_written_under_a_name_that_is_read_as_json(name, tmp_path):
    annotation = write_json(tmp_path / "captions.json", ROWS)
    with pytest.raises(ValueError, match=rf"{name}: the name of a manifest, expected one that ends in \.parquet"):
        write_manifest(annotation, tmp_path / name)
    assert not (tmp_path / name).exists()
