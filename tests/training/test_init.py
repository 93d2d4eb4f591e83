"""A run that starts from other weights has their tower in its feature cache, and their words in its tokenizer."""

import json
from dataclasses import replace

import pytest
import torch
from helpers.commands import TINY, train_questions

from stgt.data.features import FeatureStore
from stgt.data.text import Tokenizer
from stgt.runs import load_run
from stgt.training.start import start_from
from stgt.weights.tower import tower_hash


def training(clips, out, *more):
    data = ["--data.train", clips / "train.json", "--data.test", clips / "test.json", "--data.videos", clips / "videos"]
    return ["train", "quickstart", *TINY, "--epochs", 1, *data, "--out", out, *more]


@pytest.mark.parametrize("source", ["run", "folder", "released.pth"])
def test_cached_tokens_are_those_of_the_tower_that_the_run_starts_from(source, run, clips, stgt, tmp_path):
    init, words = run, ["--data.tokenizer", run / "tokenizer"]
    if source != "run":
        init = tmp_path / source
        assert stgt("convert", run, "--out", init)[0] == 0
    cached = training(
        clips,
        tmp_path / "next",
        "--init",
        init,
        "--model.vision.open-blocks",
        0,
        "--data.features",
        tmp_path / "tokens",
    )
    features = ["data", "features", "--out", tmp_path / "tokens", *cached[1:]]
    for command in (features, cached, cached):  # the third command goes on with the complete run
        status, printed = stgt(*command, *words)
        assert status == 0, printed
    found = load_run(tmp_path / "next", "cpu").model
    assert torch.equal(found.vision.tower.pos_embed, load_run(run, "cpu").model.vision.tower.pos_embed)
    assert FeatureStore(tmp_path / "tokens").key.tower == tower_hash(found.vision.state_dict(), found.config.vision)


def test_tokens_of_another_tower_are_refused_at_the_start_and_when_the_run_goes_on(run, clips, stgt, tmp_path):
    frozen, tokens = ["--model.vision.open-blocks", 0], ["--data.features", tmp_path / "tokens"]
    features = ["data", "features", "--out", tmp_path / "tokens", *training(clips, tmp_path / "a", *frozen)[1:]]
    assert stgt(*features)[0] == 0
    begun = training(clips, tmp_path / "next", "--init", run, *frozen, *tokens)
    status, printed = stgt(*begun)
    assert status == 2 and "holds features of another kind: tower is" in printed
    assert not (tmp_path / "next").exists()
    assert stgt("data", "features", "--out", tmp_path / "right", *begun[1:])[0] == 0
    tokens[1].rename(tmp_path / "wrong")
    (tmp_path / "right").rename(tokens[1])
    assert stgt(*begun)[0] == 0
    tokens[1].rename(tmp_path / "right")
    (tmp_path / "wrong").rename(tokens[1])
    status, printed = stgt(*begun, "--accept-changed-data")
    assert status == 2 and "holds features of another kind: tower is" in printed


def test_a_tower_that_checkpoints_would_not_hold_is_refused(run):
    """A checkpoint names a frozen tower of open_clip, and does not store it."""
    source = load_run(run, "cpu").model
    named = replace(source.config.vision, open_blocks=0, pretrained="some-tag")
    source.config = replace(source.config, vision=named)
    start_from(source, run)  # the weights are those of the tower that is named
    with torch.no_grad():
        source.vision.tower.pos_embed.add_(1)
    with pytest.raises(ValueError, match=r"its vision tower is not model.vision.pretrained='some-tag'"):
        start_from(source, run)


@pytest.fixture
def other_words(clips, tmp_path):
    """An annotation of the training videos, whose words have other frequencies."""
    pairs = json.loads((clips / "train.json").read_text())
    path = tmp_path / "other.json"
    path.write_text(
        json.dumps([{"video": pair["video"], "caption": f"some zebras: {pair['caption']}"} for pair in pairs])
    )
    return path


@pytest.mark.parametrize("source", ["run", "folder"])
def test_words_keep_their_weights(source, run, clips, other_words, stgt, tmp_path):
    if source == "folder":
        assert stgt("convert", run, "--out", tmp_path / "folder")[0] == 0
    init = run if source == "run" else tmp_path / "folder"
    status, printed = stgt(*training(clips, tmp_path / "next", "--init", init, "--data.train", other_words))
    assert status == 0, printed
    ours, theirs = Tokenizer.load(tmp_path / "next" / "tokenizer"), Tokenizer.load(run / "tokenizer")
    assert ours.vocabulary == theirs.vocabulary
    fresh = training(clips, tmp_path / "fresh", "--data.train", other_words)
    assert stgt(*fresh)[0] == 0
    assert Tokenizer.load(tmp_path / "fresh" / "tokenizer").vocabulary != theirs.vocabulary


def test_a_named_tokenizer_with_other_words_is_refused(run, clips, stgt, tmp_path):
    vocabulary = Tokenizer.load(run / "tokenizer").vocabulary
    names = sorted(vocabulary, key=vocabulary.get)
    names[-2], names[-3] = names[-3], names[-2]
    Tokenizer({name: number for number, name in enumerate(names)}).save(tmp_path / "swapped")
    words = training(clips, tmp_path / "next", "--init", run, "--data.tokenizer")
    status, printed = stgt(*words, tmp_path / "swapped")
    assert status == 2 and "expected --data.tokenizer train, which takes that tokenizer" in printed
    assert not (tmp_path / "next").exists()
    assert stgt(*words, run / "tokenizer")[0] == 0


def test_a_new_tokenizer_for_weights_without_one_is_refused(run, clips, stgt, tmp_path):
    load_run(run, "cpu").model.save_pretrained(tmp_path / "network")
    words = training(clips, tmp_path / "next", "--init", tmp_path / "network")
    status, printed = stgt(*words)
    assert status == 2 and "network has no tokenizer, and data.tokenizer='train' would give its words other" in printed
    assert stgt(*words, "--data.tokenizer", run / "tokenizer")[0] == 0


def test_weights_that_are_not_there_are_named(clips, stgt, tmp_path):
    status, printed = stgt(*training(clips, tmp_path / "next", "--init", tmp_path / "gone"))
    assert status == 2 and f"init is {tmp_path / 'gone'}: no such file or folder" in printed
    assert not (tmp_path / "next").exists()


def test_a_language_model_keeps_its_words(run, clips, stgt, tmp_path):
    begun = train_questions(clips, tmp_path / "first", "--init", run, "--epochs", 1)
    assert stgt(*begun)[0] == 0
    pairs = json.loads((clips / "qa_train.json").read_text())
    (tmp_path / "qa.json").write_text(json.dumps([pair | {"question": f"zebra: {pair['question']}"} for pair in pairs]))
    again = train_questions(clips, tmp_path / "next", "--init", tmp_path / "first", "--epochs", 1)
    assert stgt(*again, "--data.train", tmp_path / "qa.json")[0] == 0
    first, second = (load_run(tmp_path / name, "cpu").tokenizer.vocabulary for name in ("first", "next"))
    assert first == second
    status, printed = stgt(*training(clips, tmp_path / "back", "--init", tmp_path / "first"))
    assert status == 2 and "first, a question answering run, whose weights have no part that reads captions" in printed


def test_the_words_of_a_retrieval_model_are_no_difference_for_questions(run, clips, stgt, caplog, tmp_path):
    caplog.set_level("INFO")
    status, printed = stgt(*train_questions(clips, tmp_path / "next", "--init", run, "--epochs", 1))
    assert status == 0 and "vocab_size" not in printed + caplog.text and "token_id" not in printed + caplog.text


def test_settings_that_differ_from_those_of_the_weights_are_told(run, stgt, caplog, tmp_path):
    assert stgt("convert", run, "--out", tmp_path / "folder")[0] == 0
    caplog.set_level("INFO")
    model = load_run(run, "cpu").model
    model.config = replace(model.config, graph=replace(model.config.graph, threshold=0.75))
    for init in (run, tmp_path / "folder"):
        caplog.clear()
        start_from(model, init)
        told = f"starting from {init}, which was trained with another value of model.graph.threshold: 0.75, there 0.5"
        assert told in caplog.text
