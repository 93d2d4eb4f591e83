"""An index notices what has changed in its folders, and survives kills and a second process."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.colours import Colours, film
from helpers.forks import Fork

import stgt
from stgt.integrity import DamagedError
from stgt.ownership import OwnedError, owned
from stgt.search.encoder import open_encoder
from stgt.search.manifest import Manifest


@pytest.fixture
def copied(films, made, tmp_path):
    """A copy of the films, and an index of the copy."""
    shutil.copytree(films, tmp_path / "films")
    index = stgt.Index(tmp_path / "films.index", Colours())
    index.update(tmp_path / "films", window=4, stride=2, workers=1)
    return index, tmp_path / "films"


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


def test_moments_are_like_others_after_a_file_was_removed(copied):
    index, films = copied
    (films / "more" / "b.mp4").unlink()
    index.update(workers=1)
    kept = [moment for colour in ("red", "green", "blue", "yellow") for moment in index.search(colour, top=9)]
    assert kept and all(moment not in index.like(moment, top=3) for moment in kept)
    query = index.encoder.encode_texts(["red"])[0][None]
    assert index._packed.holds(len(index))  # the rows of the removed file are still there, but have no numbers
    dead = next(number for number in range(len(index)) if not index._packed.holds(number))
    with pytest.raises(ValueError, match=f"apart_from is {dead}, expected the number of a window"):
        index.nearest(query, apart_from=dead)


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


def test_files_that_were_moved_to_other_folders_are_not_read_again(copied, tmp_path):
    index, films = copied
    seen, colours = index.encoder.seen, ("red", "green", "blue", "yellow")
    then = {(m.path.name, *m[1:]) for colour in colours for m in index.search(colour, top=20)}
    film(films / "more" / "a.mp4", ("green", 2))  # another file with the name of one that is moved
    (films / "more").rename(films / "old")
    (films / "new").mkdir()
    (films / "a.mp4").rename(films / "new" / "a.mp4")
    changes = index.update(workers=1)
    assert changes.added == [films / "old" / "a.mp4"] and changes.removed == []
    assert index.encoder.seen == seen + 1
    assert index.files == [films / name for name in ("new/a.mp4", "old/a.mp4", "old/b.mp4", "old/c.mkv")]
    assert stgt.Index(index.path, Colours()).files == index.files
    found = {(m.path.name, *m[1:]) for c in colours for m in index.search(c, top=20) if m.path != films / "old/a.mp4"}
    assert found == then
    shutil.move(films, tmp_path / "moved")  # and the whole folder, as on another machine
    assert index.update(tmp_path / "moved", workers=1)[:2] == ([], []) and index.encoder.seen == seen + 1
    shutil.copytree(tmp_path / "moved" / "old", tmp_path / "moved" / "twice")
    (tmp_path / "moved" / "old" / "b.mp4").rename(tmp_path / "moved" / "b.mp4")
    changes = index.update(workers=1)  # two files may be the one that is gone, so both are read
    added = ["b.mp4", "twice/a.mp4", "twice/b.mp4", "twice/c.mkv"]
    assert changes.added == [tmp_path / "moved" / name for name in added]
    assert changes.removed == [tmp_path / "moved" / "old" / "b.mp4"]
    assert all(path.exists() for path in index.files) and len(index.files) == 7


def test_files_in_a_folder_that_cannot_be_read_now_stay_in_the_index(copied, tmp_path, monkeypatch):
    index, films = copied
    shutil.move(films / "more", tmp_path / "disk")
    (films / "more").symlink_to(tmp_path / "disk")
    index.update(workers=1)
    seen, files = index.encoder.seen, index.files
    (tmp_path / "disk").rename(tmp_path / "away")
    changes = index.update(workers=1)
    assert changes.removed == [] and index.files == files
    assert changes.broken[films / "more"] == "a link to a file or folder that is not there"
    (tmp_path / "away").rename(tmp_path / "disk")
    scan = os.scandir

    def fail(folder):
        if Path(folder) == films / "more":
            raise OSError(5, "Input/output error")
        return scan(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", fail)
        changes = index.update(workers=1)
    assert changes.removed == [] and index.files == files
    assert changes.broken[films / "more"] == "the folder cannot be read: Input/output error"
    assert index.search("yellow", top=1)[0].path.parent == films / "more"
    assert index.update(workers=1)[:2] == ([], []) and index.encoder.seen == seen
    (films / "more").unlink()
    assert index.update(workers=1).removed == [films / "more" / "b.mp4", films / "more" / "c.mkv"]


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


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("window", "8", "a positive number of seconds"),
        ("stride", "4", "a positive number of seconds"),
        ("timeout", None, "a positive number of seconds"),
        ("shots", "no", "True or False"),
        ("ray", "no", "True or False"),
        ("workers", 1.5, "a whole number of at least 1"),
        ("workers", -1, "a whole number of at least 1"),
        ("exact_up_to", None, "a whole number of at least 1"),
    ],
)
def test_wrong_arguments_of_an_update_are_named(name, value, expected, copied):
    with pytest.raises(ValueError, match=f"{name} is {value!r}, expected {expected}"):
        copied[0].update(**{name: value})


def test_wrong_queries_are_named(copied):
    index, _ = copied
    query = index.encoder.encode_texts(["red"])[0][None]
    for wrong in (None, [1.0], query.to("meta"), query.to_sparse()):
        with pytest.raises(ValueError, match="(?s)query is .*, expected a dense tensor with values"):
            index.nearest(wrong)
    for wrong in (-1, 2.5, "1", len(index)):
        with pytest.raises(ValueError, match=f"apart_from is {wrong!r}, expected the number of a window"):
            index.nearest(query, apart_from=wrong)
    for wrong in (None, "red", (1, 2)):
        with pytest.raises(ValueError, match="moment is .*, expected one that this index has given"):
            index.like(wrong)
    for wrong in (None, 5):
        with pytest.raises(ValueError, match=f"the path is {wrong!r}, expected"):
            index.search_video(wrong)


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
        (lambda place: place.mkdir(), "holds no index, expected a folder that `stgt index VIDEOS --out films.index"),
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


def test_a_model_in_the_home_folder_is_kept_by_its_whole_path(run, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    assert open_encoder(f"~/{run.name}").name == str(run.resolve())


def test_the_commands_index_a_folder_and_answer_in_json(run, clips, stgt, tmp_path):
    place = tmp_path / "films.index"
    status, printed = stgt("index", clips / "videos", "--out", place, "--model", run, "--shots", "--workers", 1)
    count = len(list((clips / "videos").iterdir()))
    assert status == 0 and f"{count} videos, {count} windows; new: {count}, changed: 0, gone: 0, left out: " in printed
    status, printed = stgt("search", place, "a green triangle", "--json", "--top", 3)
    found = json.loads(printed)
    assert status == 0 and len(found) == 3 and found[0].keys() == {"path", "start", "end", "score"}
    assert all(Path(each["path"]).is_file() for each in found)
    status, printed = stgt("search", place, "--video", found[0]["path"], "--top", 1)
    assert status == 0 and printed.split()[:5] == ["1.", "1.000", "0:00", "–", "0:00"] and printed.endswith(".mp4\n")
    for words, message in (
        (["a", "b"], "got 2 sentences after"),
        (["a", "--video", "b.mp4"], "got a sentence and --video b.mp4, expected only one of them"),
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
