"""An index finds moments, notices what has changed in its folders, and survives kills and a second process."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.colours import Colours, film
from helpers.forks import Fork

import stgt
from stgt.data.cuts import Window
from stgt.data.video import read_frames
from stgt.data.windows import Pixels, read_windows, windows_of
from stgt.integrity import DamagedError
from stgt.ownership import OwnedError, owned
from stgt.search import packed
from stgt.search.manifest import Manifest
from stgt.search.ranking import best_apart, exact_scores, scores


@pytest.fixture
def copied(films, made, tmp_path):
    """A copy of the films, and an index of the copy."""
    shutil.copytree(films, tmp_path / "films")
    index = stgt.Index(tmp_path / "films.index", Colours())
    index.update(tmp_path / "films", window=4, stride=2, workers=1)
    return index, tmp_path / "films"


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
    assert all(moment.score > 0.99 for moment in blue[:3]) and blue[3].score < 0
    assert {("a.mp4", True), ("c.mkv", True)} == {
        (each.path.name, each.end > 12 or each.start < 5) for each in blue[:3]
    }
    assert [moment.score for moment in blue] == sorted((moment.score for moment in blue), reverse=True)
    for one in blue:
        assert not any(
            one.path == two.path and one.start < two.end and two.start < one.end for two in blue if two != one
        )
    assert len(blue) < 12  # the rest overlap


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
    blue = index.search("blue", top=1)[0]
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


def test_new_changed_and_removed_files_are_noticed_and_no_others_are_read(copied):
    index, films = copied
    seen = index.encoder.seen
    assert index.update().added == [] and index.encoder.seen == seen
    film(films / "new.mp4", ("green", 2))
    (films / "more" / "b.mp4").unlink()
    film(films / "more" / "c.mkv", ("green", 3))
    film(films / "broken.mp4", ("blue", 2))
    changes = index.update(workers=1)
    assert changes.added == [films / name for name in ("broken.mp4", "more/c.mkv", "new.mp4")]
    assert changes.removed == [films / "more/b.mp4", films / "more/c.mkv"] and changes.broken == {}
    assert index.encoder.seen == seen + 3
    assert index.files == [films / name for name in ("a.mp4", "broken.mp4", "more/c.mkv", "new.mp4")]
    green = {moment.path.name for moment in index.search("green", top=9) if moment.score > 0.99}
    assert green == {"a.mp4", "c.mkv", "new.mp4"}
    assert {path.name for path in index.path.iterdir()} == {"index.json", *(s.vectors for s in index.manifest.segments)}


def test_a_file_that_is_found_by_another_link_has_the_path_by_which_it_is_found(films, tmp_path):
    (tmp_path / "link").symlink_to(films)
    index = stgt.Index(tmp_path / "films.index", Colours())
    index.update(tmp_path / "link", workers=1)
    assert index.files[0] == tmp_path / "link" / "a.mp4"
    seen = index.encoder.seen
    changes = index.update(films, workers=1)
    assert (changes.added, changes.removed, index.encoder.seen) == ([], [], seen)
    (tmp_path / "link").unlink()
    assert index.files == [films / name for name in ("a.mp4", "more/b.mp4", "more/c.mkv")]
    assert index.search("red", top=1)[0].path == films / "a.mp4"


def test_an_update_of_few_files_writes_few_vectors_and_answers_as_a_new_index(tmp_path):
    (tmp_path / "films").mkdir()
    names = [f"{number:02}.mp4" for number in range(12)]
    colours = ["red", "green", "blue", "yellow"]

    def put(name, *scenes):
        film(tmp_path / "films" / name, *((colours[scene % 4], 4) for scene in scenes))

    for number, name in enumerate(names[:8]):
        put(name, number, number + 1)
    index = stgt.Index(tmp_path / "films.index", Colours())
    for step in range(5):
        kept = {path.name: path.stat().st_ino for path in index.path.glob("vectors-*")}
        if step in (1, 2, 3):
            put(names[7 + step], step)  # one window
        if step == 3:
            (tmp_path / "films" / names[0]).unlink()
            put(names[1], 3, 3)  # changed
        if step == 4:
            for name in names[1:6]:
                (tmp_path / "films" / name).unlink()
        index.update(tmp_path / "films", window=4, stride=4, workers=1)
        windows = [segment.windows for segment in index.manifest.segments]
        assert sum(kept.get(path.name) != path.stat().st_ino for path in index.path.glob("vectors-*")) == 1
        assert windows == [[16], [16, 1], [16, 2], [16, 5], [5, 4]][step]
        assert {path.name for path in index.path.glob("vectors-*")} == {s.vectors for s in index.manifest.segments}
        new = stgt.Index(tmp_path / f"new{step}.index", Colours())
        new.update(tmp_path / "films", window=4, stride=4, workers=1)
        assert len(new) == len(index) and new.files == index.files and len(new.manifest.segments) == 1
        for one in (index, stgt.Index(index.path, Colours())):
            for colour in colours:
                answers = {moment._replace(score=round(moment.score, 4)) for moment in one.search(colour, top=30)}
                assert answers == {m._replace(score=round(m.score, 4)) for m in new.search(colour, top=30)}
        found = index.search("green", top=1)[0]
        assert [m.score for m in index.like(found, top=9)] == [m.score for m in new.like(found, top=9)]


def test_an_open_index_answers_as_before_while_it_is_changed(copied):
    index, films = copied
    reader = stgt.Index(index.path, Colours())
    before = reader.search("red")
    (films / "a.mp4").unlink()
    index.update()
    assert reader.search("red") == before
    assert all(moment.path.name != "a.mp4" for moment in stgt.Index(index.path, Colours()).search("red"))


def update_and_die(folder, films):
    encoder = Colours(fail_after=9, fail=lambda: os.kill(os.getpid(), signal.SIGKILL))
    stgt.Index(folder, encoder).update(films, window=4, stride=2, workers=1)


def test_a_killed_update_goes_on_where_it_stopped(films, made, tmp_path):
    code, output = Fork(update_and_die, tmp_path / "films.index", films).finish()
    assert code == -signal.SIGKILL, output
    assert not (tmp_path / "films.index" / "index.json").exists()
    index = stgt.Index(tmp_path / "films.index", Colours())
    index.update(films, window=4, stride=2, workers=1)
    assert 0 < index.encoder.seen < 12
    assert index.search("blue") == stgt.Index(made, Colours()).search("blue")
    assert {path.name for path in index.path.iterdir()} == {path.name for path in made.iterdir()}


def update_and_die_before_the_manifest(folder, films):
    Manifest.save = lambda manifest, folder: os.kill(os.getpid(), signal.SIGKILL)
    stgt.Index(folder, Colours()).update(films, window=4, stride=2, workers=1)


def test_a_first_update_that_was_killed_after_it_wrote_the_vectors_goes_on(films, made, tmp_path):
    code, output = Fork(update_and_die_before_the_manifest, tmp_path / "films.index", films).finish()
    assert code == -signal.SIGKILL, output
    assert not (tmp_path / "films.index" / "index.json").exists() and list((tmp_path / "films.index").glob("vectors-*"))
    index = stgt.Index(tmp_path / "films.index", Colours())
    index.update(films, window=4, stride=2, workers=1)
    assert index.encoder.seen == 0 and {path.name for path in index.path.iterdir()} == {p.name for p in made.iterdir()}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vectors-of-mine.npy").touch()
    with pytest.raises(ValueError, match="holds other things"):
        stgt.Index(tmp_path / "other", Colours()).update(films)


def test_a_second_process_is_told_who_updates_the_index(copied):
    index, _ = copied
    with owned(index.path), pytest.raises(OwnedError, match="films.index: another command is writing there"):
        index.update()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 5}, "window is 5.0, and the index has 4.0"),
        ({"stride": 1}, "stride is 1.0, and the index has 2.0"),
        ({"stride": 6}, "stride is 6"),
    ],
)
def test_an_index_keeps_its_settings(change, message, copied):
    index, _ = copied
    with pytest.raises(ValueError, match=message):
        index.update(**change)


def test_another_model_is_refused(copied):
    other = Colours()
    other.digest, other.name = "f" * 16, "others"
    with pytest.raises(ValueError, match="made with the model colours, and the weights or settings of others"):
        stgt.Index(copied[0].path, other).search("red")


def test_damaged_vectors_are_refused_and_computed_again(copied, caplog):
    index, films = copied
    [path] = index.path.glob("vectors-*")
    content = bytearray(path.read_bytes())
    content[len(content) - 16 * len(index) - 10] ^= 1  # in the vectors of the last film
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="c.mkv were changed or damaged"):
        stgt.Index(index.path, Colours()).search("yellow", top=9)
    again = stgt.Index(index.path, Colours())
    assert again.update().added == [films / "more/c.mkv"] and "c.mkv were changed or damaged" in caplog.text
    assert len(again.search("yellow", top=9)) > 2


def test_a_flipped_byte_of_the_manifest_is_refused(made, tmp_path):
    shutil.copytree(made, tmp_path / "films.index")
    path = tmp_path / "films.index" / "index.json"
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        if json.loads(content) != _parsed(path):
            with pytest.raises((DamagedError, ValueError), match="index.json"):
                stgt.Index(tmp_path / "films.index")


def _parsed(path):
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: None, "holds no index; `stgt index FOLDER"),
        (lambda place: place.mkdir(), "holds no index"),
        (lambda place: place.write_text("a"), "holds no index"),
    ],
)
def test_a_place_without_an_index_is_refused(make, message, tmp_path):
    make(tmp_path / "films.index")
    with pytest.raises(ValueError, match=message):
        stgt.Index(tmp_path / "films.index")


def test_a_folder_of_other_things_does_not_become_an_index(films, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match="holds other things"):
        stgt.Index(tmp_path, Colours()).update(films)
    with pytest.raises(ValueError, match="folders: got none"):
        stgt.Index(tmp_path / "new", Colours()).update()
    with pytest.raises(ValueError, match="is new, expected `update`"):
        stgt.Index(tmp_path / "new", Colours()).search("red")


def test_names_that_are_not_utf8_are_kept(tmp_path):
    (tmp_path / "films").mkdir()
    odd = film(tmp_path / "films" / "caf\udce9 \x1b[2J.mp4", ("red", 1), format="mp4")
    index = stgt.Index(tmp_path / "films.index", Colours())
    index.update(tmp_path / "films", workers=1)
    assert stgt.Index(index.path, Colours()).search("red")[0].path == odd


def test_an_index_of_shots_has_windows_that_end_with_their_shot(films, tmp_path):
    index = stgt.Index(tmp_path / "films.index", Colours())
    changes = index.update(films, window=4, stride=4, shots=True, workers=1)
    assert set(changes.broken) == {films / "broken.mp4"}
    windows = {film.path: index._packed.rows(film).times.tolist() for film in index.manifest.films}
    a = [[0, 4], [4, 6], [6, 10], [10, 12], [12, 16], [16, 18]]
    assert windows[str(films / "a.mp4")] == a and windows[str(films / "more" / "b.mp4")] == [[0, 3]]
    assert windows[str(films / "more" / "c.mkv")] == [[0, 4], [4, 5], [5, 7.5]]
    assert all(moment.score > 0.99 for moment in index.search("green", top=2))  # no window holds two colours
    again = stgt.Index(index.path, Colours())
    assert again.update(workers=1).added == [] and again.manifest.settings.shots
    with pytest.raises(ValueError, match="shots is False, and the index has True"):
        again.update(shots=False)


def test_the_time_limit_of_an_index_counts_and_not_that_of_its_model(films, tmp_path):
    model = Colours()
    model.pixels = replace(model.pixels, decoding=model.pixels.decoding | {"deadline": 1e-9})
    changes = stgt.Index(tmp_path / "films.index", model).update(films / "more", shots=True, workers=1)
    assert len(changes.added) == 2 and not changes.broken


def test_the_commands_index_a_folder_and_answer_in_json(run, clips, stgt, tmp_path):
    place = tmp_path / "films.index"
    status, printed = stgt("index", clips / "videos", "--out", place, "--model", run, "--shots", "--workers", 1)
    count = len(list((clips / "videos").iterdir()))
    assert status == 0 and f"{count} videos, {count} windows; {count} videos are new" in printed
    status, printed = stgt("search", place, "a green triangle", "--json", "--top", 3)
    found = json.loads(printed)
    assert status == 0 and len(found) == 3 and found[0].keys() == {"path", "start", "end", "score"}
    assert all(Path(each["path"]).is_file() for each in found)
    status, printed = stgt("search", place, "--video", found[0]["path"], "--top", 1)
    assert status == 0 and printed.split()[:5] == ["1.", "1.000", "0:00", "–", "0:00"] and printed.endswith(".mp4\n")
    for words, message in (
        (["a", "b"], "got 2 sentences after"),
        (["a", "--top", 0], "--top is 0"),
        ([" "], "the text to search for is ' ', expected a sentence or a word"),
        (["a", "--videos", clips], "--videos is given, expected it without an index only"),
    ):
        status, printed = stgt("search", place, *words)
        assert status == 2 and message in printed
    assert "expected it with an index only" in stgt("search", "a red cube", "--json", "--model", run)[1]
    assert "the text to search for is ''" in stgt("search", "", "--model", run)[1]
    assert "--model is not given" in stgt("search", "a red cube")[1]
    assert "searches an index only" in stgt("search", "a red cube", "--model", "openclip:a/b")[1]
