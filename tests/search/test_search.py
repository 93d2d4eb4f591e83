"""Search ranks like evaluation, reads the files of a folder once, and also finds sentences for a video."""

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest
import torch
from helpers.clips import grey, write_video
from hypothesis import given, settings
from hypothesis import strategies as st

from stgt import load
from stgt.cli.search import _draw
from stgt.data.shards.pack import pack
from stgt.evaluation.options import Evaluation
from stgt.evaluation.retrieval import retrieval_figures
from stgt.evaluation.run import evaluate
from stgt.integrity import DamagedError
from stgt.runs import open_run
from stgt.search import folder as folders
from stgt.search.search import find_captions, find_videos, rank, read_sentences


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 14), st.integers(0, 1000))
def test_search_ranks_in_the_order_of_evaluation(count, k_test, seed):
    similarity, matched = torch.rand(2, count, generator=torch.Generator().manual_seed(seed))
    found = rank(similarity, lambda items: matched[items], top=count, k_test=k_test)
    order, scores = [item for item, _ in found], [score for _, score in found]
    # Each text has the same scores and another video, so its rank is the place of its video.
    tables = [table[:, None].expand(count, count) for table in (similarity, matched)]
    figures = retrieval_figures(tables[0], range(count), lambda pairs: tables[1][pairs[:, 0], pairs[:, 1]], [k_test])
    assert figures[k_test]["text_to_video"]["R@5"] == pytest.approx(100 * min(5, count) / count)
    best = similarity.sort(descending=True, stable=True).indices.tolist()
    assert set(order[:k_test]) == set(best[:k_test]) and order[k_test:] == best[k_test:]
    assert scores[:k_test] == sorted(scores[:k_test], reverse=True)
    assert scores == pytest.approx([(similarity[i] + (matched[i] if i in best[:k_test] else 0)).item() for i in order])


def test_top_must_be_positive():
    with pytest.raises(ValueError, match="top is 0"):
        rank(torch.rand(2), lambda items: items.float(), top=0)


@pytest.mark.parametrize("rerank", ["softmax", "logit", "odds"])
def test_captions_and_videos_are_found_as_evaluation_ranks_them(rerank, run, clips, tmp_path):
    pairs = json.loads((clips / "test.json").read_text())
    kept = tmp_path / "features"
    result = evaluate(Evaluation(run, rerank=rerank, features=kept, out=tmp_path / "evaluation.json", device="cpu"))
    opened = open_run(run, "cpu")
    opened.model.config.qformer.rerank = rerank
    first = sum(
        find_videos(opened, pair["caption"], None, kept, top=1)[0].found == clips / "videos" / pair["video"]
        for pair in pairs
    )
    assert result["text_to_video"]["reranked"]["R@1"] == pytest.approx(100 * first / 11)
    first = sum(
        find_captions(opened, clips / "videos" / pair["video"], None, kept, top=1)[0].found == pair["caption"]
        for pair in pairs
    )
    assert result["video_to_text"]["reranked"]["R@1"] == pytest.approx(100 * first / 11)


@pytest.fixture
def videos(clips, tmp_path):
    """A folder with clips at two levels, a broken clip, a hidden clip, and files that are not videos."""
    folder = tmp_path / "videos"
    (folder / "more" / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    sources = sorted((clips / "videos").iterdir())
    for source, name in zip(
        sources, ["b.mp4", "a.MP4", "more/c.mp4", "more/deep/d.mkv", ".hidden/e.mp4"], strict=False
    ):
        shutil.copy(source, folder / name)
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("no video either")
    return folder


def indexed(run, videos, tmp_path, **options):
    return folders.index_folder(run, videos, tmp_path / "kept", batch_size=3, **options)


def test_a_folder_is_read_once_and_then_only_its_changes(run, videos, tmp_path, monkeypatch):
    run, read = open_run(run, "cpu"), []
    each = folders.call_each

    def noted(paths):
        for path in paths:
            read.append(path)
            yield path

    monkeypatch.setattr(folders, "call_each", lambda function, paths, **rest: each(function, noted(paths), **rest))
    index = indexed(run, videos, tmp_path)
    names = [str(path.relative_to(videos)) for path in index.videos]
    assert names == ["a.MP4", "b.mp4", "more/c.mp4", "more/deep/d.mkv"]
    assert index.broken == {videos / "broken.mp4": "not a video file, or one that is cut short"}
    read.clear()
    again = indexed(run, videos, tmp_path)
    assert read == [videos / "broken.mp4"] and again.videos == index.videos  # a broken file may have been repaired
    before = again.store.all("embeds")
    assert torch.equal(before, index.store.all("embeds"))
    del index, again  # nothing is removed while somebody uses it

    os.utime(videos / "a.MP4", ns=(0, 0))
    shutil.copy(videos / "a.MP4", videos / "new.mp4")
    (videos / "more" / "c.mp4").unlink()
    shutil.copy(videos / "b.mp4", videos / "broken.mp4")
    read.clear()
    changed = indexed(run, videos, tmp_path)
    assert read == [videos / name for name in ("a.MP4", "broken.mp4", "new.mp4")] and changed.broken == {}
    assert len(changed.videos) == len(changed.store) == len(list(changed.store.folder.iterdir())) == 5
    rows = dict(zip(changed.videos, changed.store.all("embeds"), strict=True))
    torch.testing.assert_close(rows[videos / "a.MP4"], before[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(rows[videos / "b.mp4"], before[1])


def test_a_file_that_cannot_be_read_is_the_only_one_left_out(run, videos, tmp_path, stgt):
    """Files with odd names are found, and files that are not videos are listed with their cause."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (videos / "more" / "c.mp4").rename(elsewhere / "caf\udce9\x1b[2J\n$x_{$.mp4")
    (videos / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(videos)
    (videos / "a.mp4.d" / "film.mp4").mkdir(parents=True)
    os.mkfifo(videos / "pipe.mp4")
    (videos / "gone.mp4").symlink_to("nowhere")
    words = ["search", "a $green$ triangle\x1b", "--run", run, "--features", tmp_path / "kept", "--videos", videos]
    status, printed = stgt(*words, "--figure", tmp_path / "top.png")
    lines = printed.splitlines()
    assert status == 0 and "\x1b" not in printed and (tmp_path / "top.png").is_file()
    assert sum(line.endswith(f"{videos}/linked/caf\\xe9\\x1b[2J\\n$x_{{$.mp4") for line in lines) == 1
    assert [line for line in lines if line.startswith("left out")] == [
        f"left out, {videos}/a.mp4.d/film.mp4: a folder, expected a file; what is in it is looked through",
        f"left out, {videos}/gone.mp4: a link to a file or folder that is not there",
        f"left out, {videos}/pipe.mp4: a named pipe, expected a file",
        f"left out, {videos}/broken.mp4: not a video file, or one that is cut short",
    ]
    assert sum("  1." in line or "  2." in line or "  3." in line or "  4." in line for line in lines) == 4


def test_a_picture_that_fails_does_not_prevent_the_answer(run, videos, tmp_path, stgt, caplog):
    words = ["search", "a green triangle grows", "--run", run, "--features", tmp_path / "kept", "--videos", videos]
    (tmp_path / "folder.png").mkdir()
    status, printed = stgt(*words, "--figure", tmp_path / "folder.png")
    assert status == 0 and "  1.  " in printed and "the picture is" not in printed
    assert f"the picture {tmp_path / 'folder.png'} was not drawn: IsADirectoryError" in caplog.text


def test_a_test_split_with_absolute_paths_and_paths_upwards_is_searched(run, clips, tmp_path, stgt, monkeypatch):
    pairs = json.loads((clips / "test.json").read_text())[:3]
    pairs[0]["video"] = str(clips / "videos" / pairs[0]["video"])
    pairs[1]["video"] = f"../videos/{pairs[1]['video']}"
    (tmp_path / "test.json").write_text(json.dumps(pairs))
    opened = open_run(run, "cpu")
    data = replace(opened.config.data, test=tmp_path / "test.json")
    changed = opened._replace(config=replace(opened.config, data=data))
    monkeypatch.setattr("stgt.runs.open_run", lambda *_: changed)
    words = ["--figure", tmp_path / "top.png", "--features", tmp_path / "kept"]
    status, printed = stgt("search", "a green triangle", "--model", run, *words)
    assert status == 0 and (tmp_path / "top.png").is_file()
    found = {Path(line.split()[-1]) for line in printed.splitlines() if line.endswith(".mp4")}
    assert found == {clips / "videos" / pair["video"] for pair in pairs}


def test_replaced_videos_and_another_decoder_are_named_and_encoded_again(run, videos, tmp_path, monkeypatch, caplog):
    run = open_run(run, "cpu")
    first = indexed(run, videos, tmp_path).store.all("queries")
    assert caplog.text.count("indexed again") == 0
    (videos / "a.MP4").rename(videos / "x")
    (videos / "b.mp4").rename(videos / "a.MP4")
    (videos / "x").rename(videos / "b.mp4")
    again = indexed(run, videos, tmp_path).store.all("queries")
    torch.testing.assert_close(again, first[[1, 0, 2, 3]], atol=1e-5, rtol=1e-5)
    assert f"has changed, and the changed videos are indexed again:\n  {videos / 'a.MP4'}: " in caplog.text
    monkeypatch.setattr(folders, "decoder_version", lambda decoder: f"PyAV 99 as {decoder}")
    assert len(indexed(run, videos, tmp_path).store) == 4
    assert "decoder: PyAV 99 as auto, there PyAV" in caplog.text


def test_a_flipped_byte_in_an_index_is_refused_or_encoded_again(run, videos, tmp_path):
    run, draw = open_run(run, "cpu"), random.Random(0)
    expected = [indexed(run, videos, tmp_path).store.all(key) for key in ("queries", "embeds")]
    refused = 0
    for path in sorted(path for path in (tmp_path / "kept").rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for place in [9, *draw.sample(range(len(whole)), 4)]:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :])
            try:
                store = indexed(run, videos, tmp_path).store
                for key, rows in zip(("queries", "embeds"), expected, strict=True):
                    torch.testing.assert_close(store.all(key), rows, atol=1e-5, rtol=1e-5)
            except DamagedError as error:
                refused += 1
                assert path.name in str(error)
            path.write_bytes(whole)
    assert refused >= 8


def test_an_index_of_version_0_1_0_is_not_used(run, videos, tmp_path, caplog):
    run = open_run(run, "cpu")
    place = indexed(run, videos, tmp_path).store.folder
    place.with_suffix(".fingerprint").unlink()
    indexed(run, videos, tmp_path)
    assert "was indexed by version 0.1.0, which did not record its decoder" in caplog.text


@pytest.mark.parametrize("workers", [0, 3])
def test_a_file_that_never_ends_is_left_out_after_its_time_limit(workers, run, videos, tmp_path):
    nothing = bytes([0, 0, 1, 0xB6, 0x50, 0, 0, 0])
    held = write_video(tmp_path / "e.mp4", grey(1600), codec="mpeg4", replace=lambda n: nothing if n >= 40 else None)
    shutil.copy(held, videos / "b_endless.mp4")
    opened = open_run(run, "cpu")
    opened.config.data.workers = workers
    opened.config.data.decoder = "decord"  # decord waits for frames that never come, while PyAV reads to the end
    index = indexed(opened, videos, tmp_path, timeout=2.0)
    assert len(index.videos) == 4
    assert index.broken[videos / "b_endless.mp4"] == "decoding did not end within 2 s"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is not a folder, expected a folder with videos"),
        (lambda folder: folder.mkdir(), "holds no video, expected files ending in .3g2, .3gp, .amv"),
        (
            lambda folder: (folder.mkdir(), (folder / "a.mp4").touch()),
            "holds no video that can be read; .*: the file is",
        ),
    ],
)
def test_a_folder_without_videos_is_refused(make, message, run, tmp_path):
    make(tmp_path / "folder")
    with pytest.raises(ValueError, match=message):
        indexed(open_run(run, "cpu"), tmp_path / "folder", tmp_path)


def test_the_command_answers_with_paths_scores_and_a_picture(run, videos, stgt, tmp_path):
    words = ["search", "a green triangle grows", "--run", run, "--features", tmp_path / "kept", "--top", 3]
    status, printed = stgt(*words, "--videos", videos, "--figure", tmp_path / "top.png")
    lines = printed.splitlines()
    hits = [line.split() for line in lines if line.lstrip()[:2] in ("1.", "2.", "3.")]
    assert status == 0 and f"left out, {videos / 'broken.mp4'}: not a video file" in printed
    assert len(hits) == 3 and all(str(videos) in path for _, _, path in hits)
    assert [float(score) for _, score, _ in hits] == sorted((float(score) for _, score, _ in hits), reverse=True)
    assert matplotlib.image.imread(tmp_path / "top.png").std() > 0.05


def test_the_command_finds_sentences_for_a_video(run, videos, clips, stgt, tmp_path):
    (tmp_path / "lines.txt").write_text(
        "a red square grows\n\n  a blue circle vanishes \na red square grows\n", "utf-8"
    )
    words = ["search", "--run", run, "--features", tmp_path / "kept", "--video", videos / "b.mp4"]
    status, printed = stgt(*words, "--captions", tmp_path / "lines.txt")
    assert status == 0 and len(printed.splitlines()) == 2
    assert {line.split("  ")[-1] for line in printed.splitlines()} == {"a red square grows", "a blue circle vanishes"}
    status, printed = stgt(*words, "--top", 4)
    own = {pair["caption"] for pair in json.loads((clips / "test.json").read_text())}
    assert status == 0 and {line.split("  ")[-1] for line in printed.splitlines()} < own


def test_a_folder_of_save_pretrained_searches_any_videos(run, videos, stgt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load(run, device="cpu").save_pretrained(tmp_path / "pretrained")
    words = ["search", "a green triangle grows", "--run", "pretrained"]
    assert stgt(*words, "--videos", videos)[0] == 0
    assert {"features", "search.png"} <= {path.name for path in (tmp_path / "pretrained").iterdir()}
    assert "names no videos, expected --videos" in stgt(*words)[1]
    words = ["search", "--run", "pretrained", "--video", videos / "b.mp4"]
    assert "names no captions, expected --captions" in stgt(*words)[1]
    folders = ["pretrained", run]
    written, expected = (stgt("caption", videos / "b.mp4", "--run", folder) for folder in folders)
    assert written == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "expected a sentence or --video FILE, got neither"),
        (["a", "--video", "b.mp4"], "expected a sentence or --video FILE, got both"),
        (["--video", "b.mp4", "--videos", "folder"], "--videos is given, expected it with a sentence only"),
        (["a", "--captions", "c.txt"], "--captions is given, expected it with --video only"),
        (["--video", "none.mp4"], "none.mp4: no such file"),
        (["a", "--top", "0"], "top is 0, expected at least 1"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(words, expected, run, stgt, tmp_path):
    status, printed = stgt("search", *words, "--run", run, "--features", tmp_path)
    assert status == 2 and expected in printed


def test_sentences_come_from_text_and_annotations(tmp_path, clips):
    assert len(read_sentences(clips / "test.json")) == 11
    (tmp_path / "odd.txt").write_bytes("\ufeffa\u2028b\x85c\rd\r\n e \n\n".encode())
    assert read_sentences(tmp_path / "odd.txt") == ["a\u2028b\x85c\rd", "e"]
    for name, content, message in (
        ("none.txt", None, "no such file"),
        ("latin.txt", "naïve".encode("latin-1"), "line 1 is not UTF-8 .*, expected text in UTF-8"),
        ("empty.txt", b" \n\n", "holds no sentence, expected one on each line"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            read_sentences(tmp_path / name)


def test_videos_and_captions_of_a_test_split_in_shards_are_found_and_drawn(run, clips, tmp_path):
    packed, *_ = pack(clips / "test.json", clips / "videos", tmp_path / "shards", shard_size=20_000)
    opened = open_run(run, "cpu")
    opened.config.data.test, opened.config.data.videos = packed, tmp_path / "shards"
    hits = find_videos(opened, "a red square", None, tmp_path / "features", top=2)
    assert hits[0].found.parent.suffix == ".tar"
    _draw(hits, "a red square", tmp_path / "shards", tmp_path / "found.png")
    assert (tmp_path / "found.png").exists()
    assert read_sentences(packed) == read_sentences(clips / "test.json")
