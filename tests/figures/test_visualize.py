"""`stgt visualize` writes a page that needs no other address, with examples that agree with evaluation."""

import base64
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.web_page import Page
from PIL import Image

from stgt.cli.visualize import visualize
from stgt.data.errors import VideoError
from stgt.evaluation.options import Evaluation
from stgt.evaluation.run import evaluate
from stgt.figures.clip import folder_name, look_at, why_no_examples
from stgt.figures.examples import find_examples, spread
from stgt.figures.page import Picture, write_page
from stgt.ownership import owned
from stgt.runs import load_run, open_run

FIGURES = {"similarity", "edges", "adjacency", "weights", "attention", "attention_matrices", "thresholds", "pooling"}


def clip(clips):
    return clips / "videos" / json.loads((clips / "test.json").read_text())[2]["video"]


@pytest.fixture(scope="module")
def page(run, clips, tmp_path_factory):
    """The page for the run, and the output of the command."""
    out = tmp_path_factory.mktemp("page") / "new"
    visualize(clip(clips), str(run), frame=2, column=1, features=out / "features", out=out, device="cpu")
    return out


def test_the_page_holds_every_figure_and_fetches_nothing(page, run, clips):
    text = (page / "index.html").read_text("utf-8")
    read = Page(text)
    assert (
        set(read.figures) == {file.stem for file in page.glob("*.png")} == FIGURES | {"text_to_video", "video_to_text"}
    )
    assert not {"script", "link", "iframe", "object", "video"} & set(read.tags)
    assert len(read.addresses) == len(read.figures) and "http:" not in text and "https:" not in text
    assert "url(" not in text and "@import" not in text
    for name, address in read.figures.items():
        kind, data = address.split(",", 1)
        assert kind == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as shown, Image.open(page / f"{name}.png") as file:
            assert shown.size == file.size
    for said in (clip(clips).name, str(run), "threshold h", "0.5", "window w", "frame 2, row ", "column 1"):
        assert said in read.text
    assert read.tags.count("figcaption") == len(read.figures)


def test_examples_are_ranked_in_the_order_of_evaluation(run, tmp_path):
    result = evaluate(Evaluation(run, features=tmp_path / "features", out=tmp_path / "evaluation.json", device="cpu"))
    opened = open_run(run, "cpu")
    by_text, by_video = find_examples(opened, tmp_path / "features", 11)
    captions = json.loads(opened.config.data.test.read_text())
    for examples, way in ((by_text, "text_to_video"), (by_video, "video_to_text")):
        assert len(examples) == 11 and all(example.among == 11 for example in examples)
        places = [example.place for example in examples]
        assert result[way]["reranked"]["R@1"] == pytest.approx(100 * places.count(1) / 11)
        assert result[way]["reranked"]["MeanR"] == pytest.approx(sum(places) / 11)
        for example in examples:
            assert [a.score for a in example.answers] == sorted((a.score for a in example.answers), reverse=True)
            right = [place for place, answer in enumerate(example.answers, start=1) if answer.right]
            assert right == ([example.place] if example.place <= 5 else [])
    assert by_text[4].query == captions[4]["caption"] and by_video[4].query == captions[4]["video"]
    assert by_text[4].answers[0].frames.shape == by_video[4].frames.shape == (4, 32, 32, 3)


def test_examples_are_spread_over_the_split():
    assert spread(100, 4) == [0, 25, 50, 75] and spread(3, 5) == [0, 1, 2] and spread(10, 0) == []


def test_a_folder_of_save_pretrained_is_drawn_without_examples(run, clips, stgt, tmp_path):
    open_run(run, "cpu").model.save_pretrained(tmp_path / "model")
    status, printed = stgt("visualize", clip(clips), "--run", tmp_path / "model")
    page = tmp_path / "model" / "figures" / clip(clips).stem / "index.html"
    assert status == 0 and "has no test split" in printed and str(page) in printed
    assert set(Page(page.read_text()).figures) == FIGURES


def test_a_run_whose_test_split_is_elsewhere_has_no_examples(run, tmp_path):
    opened = open_run(run, "cpu")
    assert why_no_examples(opened, 3) is None and why_no_examples(opened, 0) == "examples is 0"
    data = replace(opened.config.data, test=tmp_path / "gone.json")
    assert f"{tmp_path / 'gone.json'}, does not exist" in why_no_examples(
        opened._replace(config=replace(opened.config, data=data)), 3
    )


def test_a_run_in_half_precision_is_drawn_from_float32(run, clips):
    opened = open_run(run, "cpu")
    half = opened._replace(config=replace(opened.config, precision="bf16"))
    seen, exact = (look_at(each, clip(clips), (2, 1, 1), 0).inside for each in (half, opened))
    assert seen.local.dtype == torch.bfloat16 and seen.weights().dtype == seen.q.dtype == torch.float32
    torch.testing.assert_close(seen.similarity(), exact.similarity(), atol=0.05, rtol=0)
    torch.testing.assert_close(seen.attention(seen.weights()).sum(1), torch.ones(len(seen.weights())))


def test_a_png_shows_the_edges_alone(run, clips, stgt, tmp_path):
    status, printed = stgt("visualize", clip(clips), "--run", run, "--out", tmp_path / "only.png", "--row", 3)
    assert status == 0 and "row 3" in printed and [file.name for file in tmp_path.iterdir()] == ["only.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--row", 4], "row is 4, expected 0 to 3"),
        (["--frame", -1], "frame is -1, expected 0 to 3"),
        (["--column", 99], "column is 99, expected 0 to 3"),
        (["--layer", 1], "layer is 1, expected 0 to 0"),
        (["--examples", -1], "examples is -1, expected at least 0"),
    ],
)
def test_a_token_outside_the_clip_is_an_error_that_names_it(words, message, run, clips, stgt, tmp_path):
    status, printed = stgt("visualize", clip(clips), "--run", run, "--out", tmp_path / "page", *words)
    assert status == 2 and message in printed and not (tmp_path / "page").exists()


def test_files_of_the_wrong_kind_are_named(run, clips, stgt, tmp_path):
    status, printed = stgt("visualize", tmp_path / "gone.mp4", "--run", run, "--out", tmp_path / "page")
    assert status == 2 and f"{tmp_path / 'gone.mp4'}: no such file" in printed
    (tmp_path / "file").write_text("mine")
    status, printed = stgt("visualize", clip(clips), "--run", run, "--out", tmp_path / "file")
    assert status == 2 and "file is a file, expected a folder" in printed and (tmp_path / "file").read_text() == "mine"
    status, printed = stgt("visualize", clip(clips), "--run", tmp_path, "--out", tmp_path / "page")
    assert status == 2 and str(tmp_path) in printed and not (tmp_path / "page").exists()


def test_a_page_holds_any_text_as_text(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    hostile = "\"><script>alert('1')</script> $x$ &lt; \x1b[2J\0 caf\udce9 \u202e#?% x"
    write_page(tmp_path / "index.html", hostile, {hostile: hostile}, [Picture(tmp_path / "a.png", hostile, hostile)])
    page = Page((tmp_path / "index.html").read_text("utf-8"))
    assert "script" not in page.tags and len(page.addresses) == 1
    appears = (
        hostile.replace("\x1b", "\\x1b").replace("\0", "\\x00").replace("\udce9", "\\xe9").replace("\u202e", "\\u202e")
    )
    # The name stands twice as the title, twice in a row of the settings, and above and below the figure.
    assert page.text.count(appears) == 6


def test_the_page_is_written_without_examples_that_cannot_be_found(run, clips, stgt, tmp_path, monkeypatch):
    def fail(*_):
        raise VideoError("videos/gone.mp4: no such file")

    monkeypatch.setattr("stgt.figures.clip.find_examples", fail)
    video = tmp_path / "...png.mp4"
    video.write_bytes(clip(clips).read_bytes())
    monkeypatch.setattr(
        "stgt.figures.pictures.draw_scene", lambda scene, out: out.mkdir(parents=True, exist_ok=True) or []
    )
    opened = load_run(run, "cpu")
    monkeypatch.setattr("stgt.runs.open_run", lambda *_, **__: opened)
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    status, printed = stgt("visualize", video, "--run", "run")
    assert status == 0 and "no retrieved examples: videos/gone.mp4: no such file" in printed
    assert "videos/gone.mp4: no such file" in (tmp_path / "run" / "figures" / "...png" / "index.html").read_text(
        "utf-8"
    )


def test_a_folder_for_figures_is_never_the_one_above():
    assert [folder_name(Path(name)) for name in ("a.b.mp4", "...mp4", "clip")] == ["a.b", "...mp4", "clip"]


def test_a_second_command_on_the_same_folder_is_told_of_the_first(run, clips, stgt, tmp_path):
    with owned(tmp_path / "page"):
        status, printed = stgt("visualize", clip(clips), "--model", run, "--out", tmp_path / "page")
    assert status == 2 and f"{tmp_path / 'page'}" in printed and f"process {os.getpid()}" in printed
