"""The moments that an index finds, and the queries that it refuses."""

import pytest
import torch
from helpers.colours import Colours

import stgt
from stgt.data.cuts import Window
from stgt.data.video import read_frames
from stgt.data.windows import Pixels, read_windows, windows_of
from stgt.search import packed
from stgt.search.ranking import best_apart, exact_scores, scores


def test_the_frames_of_a_window_are_those_of_reading_its_time(films):
    pixels = Pixels(4, 8, mean=(0.0,) * 3, std=(1.0,) * 3)
    windows = windows_of(films / "a.mp4", 4, 2, pixels)
    assert windows[-1] == (14, 18) and len(windows) == 8
    found = read_windows(films / "a.mp4", windows, pixels)
    transform = pixels.transform()
    for window, rows in zip(windows, found.rows, strict=True):
        expected = read_frames(films / "a.mp4", 4, start=window.start, end=window.end)
        assert torch.equal(found.pixels[rows], transform(expected.permute(0, 3, 1, 2)))
    assert len(found.pixels) == 18  # frames in two windows are decoded once


def test_a_picture_is_one_window(films, tmp_path):
    import av

    with av.open(str(films / "a.mp4")) as container:
        next(container.decode(video=0)).to_image().save(tmp_path / "a.png")
    pixels = Pixels(4, 8)
    assert windows_of(tmp_path / "a.png", 4, 2, pixels) == [(0, 0)]
    found = read_windows(tmp_path / "a.png", [Window(0, 0)], pixels)
    assert found.pixels.shape == (1, 3, 8, 8) and found.rows.tolist() == [[0, 0, 0, 0]]


def test_answers_are_moments_that_do_not_overlap(films, made):
    index = stgt.Index(made, Colours())
    assert len(index) == 8 + 1 + 3
    assert index.files == [films / name for name in ("a.mp4", "more/b.mp4", "more/c.mkv")]
    assert index.broken == {films / "broken.mp4": "not a video file, or one that is cut short"}
    first, second = index.search("yellow", top=2)
    assert {first.path.name, second.path.name} == {"b.mp4", "c.mkv"} and second.score > 0.99
    blue = index.search("blue", top=12)
    assert all(moment.score > 0.99 for moment in blue[:4]) and blue[4].score < 0
    assert {("a.mp4", True), ("c.mkv", True)} == {
        (each.path.name, each.end > 12 or each.start < 5) for each in blue[:4]
    }
    assert [moment.score for moment in blue] == sorted((moment.score for moment in blue), reverse=True)
    for one in blue:
        assert not any(
            one.path == two.path and one.start < two.end and two.start < one.end for two in blue if two != one
        )
    assert len(blue) < 12  # the rest overlap


class Rounded(Colours):
    """A model whose vectors get longer than 1 when the index rounds them to half precision."""

    def encode_windows(self, windows):
        return torch.tensor([0.7, 0.71414, 0.0]).expand(len(windows.rows), 1, 3)


def test_no_score_is_above_1(films, tmp_path):
    index = stgt.Index(tmp_path / "index", Rounded())
    index.update(films / "more", window=4, stride=2, workers=1)
    stored = torch.tensor([[[0.7, 0.71414, 0.0]]]).half()
    assert exact_scores(stored, stored[0].float()).item() > 1
    assert index.like(index.search("blue")[0])[0].score == 1


def test_a_score_is_the_largest_cosine_of_a_window_and_a_query():
    vectors = torch.nn.functional.normalize(torch.randn(50, 5, 16), dim=-1)
    queries = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    expected = (vectors.double() @ queries.double().T).amax(1).mean(1)
    # Rounding a unit vector of 16 numbers to 11 bits changes a cosine by at most 2 · 2**-11, and the result is rounded.
    half = vectors.to(packed.DTYPE)
    torch.testing.assert_close(scores(half, queries).double(), expected, rtol=0, atol=3 * 2**-11)
    torch.testing.assert_close(exact_scores(half, queries).double(), expected, rtol=0, atol=2 * 2**-11)


def test_the_first_windows_of_an_order_that_do_not_overlap_are_chosen():
    places = [(0, 0, 4), (0, 2, 6), (1, 2, 6), (0, 4, 8), (2, 0, 0), (2, 0, 0)]
    assert best_apart(range(6), 9, places.__getitem__) == [0, 2, 3, 4]
    assert best_apart([1, 0, 3, 2], 2, places.__getitem__) == [1, 2]


def test_a_picture_and_a_part_of_a_clip_find_similar_moments(films, made):
    index = stgt.Index(made, Colours())
    found = index.search_video(films / "a.mp4", start=2, end=10, top=1)[0]
    assert (found.path.name, found.start) == ("a.mp4", 4) and found.score > 0.99  # the only one with red and green
    blue = index.search("blue", top=2)[1]  # it shows nothing else
    other = index.like(blue, top=1)[0]
    assert other.score > 0.99 and other != blue
    with pytest.raises(ValueError, match="expected one that this index has given"):
        index.like(blue._replace(start=0.5))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"start": 18}, "start is 18, expected less than the 18 s of .*a.mp4"),
        ({"start": 100, "end": 101}, "start is 100, expected less than the 18 s"),
        ({"start": 5, "end": 2}, "end is 2, expected a number of seconds after start=5"),
        ({"start": -1}, "start is -1, expected"),
        ({"end": float("nan")}, "end is nan, expected"),
        ({"start": float("inf")}, "start is inf, expected"),
    ],
)
def test_a_part_that_a_clip_does_not_have_is_refused(times, message, films, made):
    with pytest.raises(ValueError, match=message):
        stgt.Index(made, Colours()).search_video(films / "a.mp4", **times)


def test_a_picture_is_searched_by_as_a_whole(films, made, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8), (30, 30, 220)).save(tmp_path / "blue.png")
    index = stgt.Index(made, Colours())
    assert index.search_video(tmp_path / "blue.png", start=3, end=4) == index.search_video(tmp_path / "blue.png")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (torch.full((2, 3), float("nan")), "the query: the model's vectors hold NaN"),
        (torch.ones(3), r"query is \(3,\), expected \(K, 3\)"),
        (torch.ones(1, 4), r"query is \(1, 4\), expected \(K, 3\)"),
        (torch.ones(0, 3), r"query is \(0, 3\), expected \(K, 3\)"),
    ],
)
def test_a_query_that_is_no_vector_of_the_model_is_refused(query, message, made):
    with pytest.raises(ValueError, match=message):
        stgt.Index(made, Colours()).nearest(query)


@pytest.mark.parametrize("text", ["", " \n", None])
def test_a_text_without_words_is_refused(text, made):
    with pytest.raises(ValueError, match="the text to search for is .*, expected a sentence or a word"):
        stgt.Index(made, Colours()).search(text)


@pytest.mark.parametrize("top", [0, -1, 2.5, "3", None])
def test_a_number_of_answers_is_a_whole_one(top, made):
    with pytest.raises(ValueError, match="top is .*, expected a whole number of at least 1"):
        stgt.Index(made, Colours()).search("red", top=top)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_time_limit_is_positive(timeout, films, tmp_path):
    with pytest.raises(ValueError, match="timeout is .*, expected a positive number of seconds"):
        stgt.Index(tmp_path / "films.index", Colours()).update(films, timeout=timeout)
