"""Commands do not use a head that the training left out, also after the model was exported."""

from dataclasses import replace

import pytest

from stgt import hub
from stgt.evaluation.options import Evaluation
from stgt.evaluation.run import evaluate
from stgt.runs import open_run
from stgt.search.search import find_videos
from stgt.weights import pretrained


@pytest.fixture(scope="module")
def trained(run):
    return open_run(run, "cpu")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """A folder of a model whose matching and generation heads were not trained, and the data of its run."""
    loss = replace(trained.config.loss, vtm_weight=0.0, vtg_weight=0.0)
    folder = tmp_path_factory.mktemp("exported") / "model"
    hub.write_folder(trained._replace(config=replace(trained.config, loss=loss)), folder, "toy")
    return folder


def evaluation(exported, trained, out, **options):
    data = trained.config.data
    return Evaluation(exported, annotation=data.test, videos=data.videos, out=out / "evaluation.json", **options)


def test_the_folder_says_which_heads_were_not_trained(exported, trained, tmp_path):
    assert open_run(exported, "cpu").training.untrained == ("matching", "generation")
    hub.write_folder(trained, tmp_path / "whole", "toy")
    assert open_run(tmp_path / "whole", "cpu").training == trained.training and trained.training.untrained == ()


def test_nothing_is_ranked_again(exported, trained, tmp_path, capsys, monkeypatch):
    features = tmp_path / "features"
    result = evaluate(evaluation(exported, trained, tmp_path, features=features))
    assert result["k_test"] == 0 and set(result["text_to_video"]) == {"vtc"}
    assert "nothing is re-ranked, because the matching head was not trained" in capsys.readouterr().out

    def match(*_):
        raise AssertionError("the matching head is used")

    monkeypatch.setattr("stgt.search.search.match_pairs", match)
    videos = trained.config.data.videos
    assert len(find_videos(open_run(exported, "cpu"), "a red square", videos, features, top=3)) == 3
    with pytest.raises(AssertionError, match="the matching head is used"):
        find_videos(trained, "a red square", videos, features, top=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(k_test=3), "k_test is given: .* loss.vtm_weight=0, expected a model with a trained matching head"),
        (dict(candidates=(0, 3)), "candidates is given: .*vtm_weight=0"),
        (dict(captions=True), "captions is given: .* loss.vtg_weight=0, expected a model with a trained generation"),
    ],
)
def test_asking_for_an_untrained_head_is_refused(options, message, exported, trained, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate(evaluation(exported, trained, tmp_path, **options))
    assert not (tmp_path / "evaluation.json").exists()


def test_stgt_caption_refuses_it(exported, trained, stgt):
    video = next(trained.config.data.videos.iterdir())
    status, printed = stgt("caption", video, "--model", exported, "--device", "cpu")
    assert status != 0 and "captions cannot be written" in printed and "loss.vtg_weight=0" in printed


def test_a_list_of_unknown_heads_is_refused(exported, tmp_path):
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "stgt", "untrained": ["counting"]}')
    with pytest.raises(ValueError, match="config.json: Training.untrained is .*counting.*expected a list .*'matching'"):
        pretrained.read_training(config)
