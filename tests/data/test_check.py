import json
from pathlib import Path

import pytest

from stgt.data import check
from stgt.data.check import bad_cause, check_settings, check_videos, write_report

CLIPS = Path(__file__).parents[1] / "assets" / "clips"


def test_broken_files_are_told_from_good_ones(real_clips, broken):
    good = [str(path) for path in [*real_clips[1:], CLIPS / "phone.jpg"]]
    bad = {str(path): cause for path, cause in broken.values()}
    entries = dict(check_videos([*good, *bad], jobs=2))
    assert list(entries) == [*good, *bad]
    assert all(bad_cause(entries[path], "auto") is None for path in good)
    assert all(cause in bad_cause(entries[path], "auto") for path, cause in bad.items())
    assert entries[good[-1]]["readers"] == {"pillow": None} and entries[good[-1]]["facts"]["height"] == 200
    assert all({"codec", "rate", "rotation", "duration"} <= entries[path]["facts"].keys() for path in good[:-1])


def test_a_file_that_takes_too_long_is_given_up(clip):
    ((_, entry),) = check_videos([clip], timeout=1e-4)
    assert entry["readers"]["pyav"] == "decoding did not end within 0.0001 s"


def test_a_file_that_never_ends_is_stopped_and_the_next_is_read(endless, clip):
    pytest.importorskip("decord", reason="decord has no wheels for this machine")
    first, second, third = [entry for _, entry in check_videos([clip, endless, clip], timeout=6)]
    assert first == third and first["readers"] == {"pyav": None, "decord": None}
    assert second["facts"]["codec"] == "mpeg4" and second["readers"]["pyav"] is None
    assert second["readers"]["decord"] == "decoding did not end within 6 s"


def test_the_bad_list_belongs_to_the_reader_that_training_uses(tmp_path):
    pytest.importorskip("decord", reason="decord has no wheels for this machine")
    files = {"report": tmp_path / "report.json", "bad_list": tmp_path / "bad.json"}
    entries = write_report(["cut_3.3.mp4", "logo.png"], CLIPS, decoder="decord", **files)
    assert json.loads(files["report"].read_text()) == entries
    cause = "other frames: decord finds 135 of them, and players show 102"
    assert json.loads(files["bad_list"].read_text()) == {"cut_3.3.mp4": cause}
    assert [bad_cause(entry, "auto") for entry in entries.values()] == [None, None]


def test_a_reader_that_is_not_installed_cannot_be_checked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="decord is not installed here: expected 'pyav'"):
        write_report([], CLIPS, decoder="decord", report=tmp_path / "report.json", bad_list=tmp_path / "bad.json")


@pytest.mark.parametrize("entry", [None, {"readers": {"pyav": None}}, {"facts": {}, "readers": {"pyav": 1}}])
def test_a_partial_report_that_no_check_wrote_is_refused(tmp_path, entry):
    lines = [check_settings(CLIPS, 99), ["a.mp4", entry]]
    (tmp_path / "report.json.partial").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    files = {"report": tmp_path / "report.json", "bad_list": tmp_path / "bad.json"}
    with pytest.raises(ValueError, match=r"partial: line 2 is \["):
        write_report(["a.mp4"], CLIPS, max_pixels=99, **files)


def test_no_files_give_no_entries():
    assert list(check_videos([])) == []


@pytest.mark.parametrize("arguments", [{"timeout": 0}, {"timeout": float("nan")}, {"jobs": 0}, {"max_pixels": 0}])
def test_limits_must_be_positive(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} is"):
        check_videos([], **arguments)
