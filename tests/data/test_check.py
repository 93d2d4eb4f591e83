import pytest

from stgt.data.check import check_videos


def test_broken_files_are_told_from_good_ones(real_clips, broken):
    good = [str(path) for path in real_clips[1:]]
    bad = {str(path): cause for path, cause in broken.values()}
    verdicts = dict(check_videos([*good, *bad], jobs=2))
    assert list(verdicts) == [*good, *bad]
    assert all(verdicts[path] is None for path in good)
    assert all(cause in verdicts[path] for path, cause in bad.items())


def test_a_file_that_promises_more_frames_than_it_holds_is_read_to_its_end(endless):
    assert list(check_videos([endless])) == [(str(endless), None)]


def test_a_file_that_takes_too_long_is_stopped_and_the_next_one_is_begun(real_clips):
    paths = [str(path) for path in real_clips[:2]]
    assert list(check_videos(paths, timeout=1e-4)) == [(path, "decoding did not end within 0.0001 s") for path in paths]


def test_no_file_at_all():
    assert list(check_videos([])) == []


@pytest.mark.parametrize("arguments", [{"timeout": 0}, {"timeout": float("nan")}, {"jobs": 0}])
def test_limits_must_be_positive(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} is"):
        check_videos([], **arguments)
