import hashlib
import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stgt.data.text import Tokenizer, clean_positions, clean_text

CAPTIONS = [
    "A small red square moves left behind the large blue circle.",
    "a green triangle grows",
    "the yellow star turns and the white cross vanishes",
    "naïve café, 42 (forty-two) trains!",
] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS, 200)


def test_cleaning():
    messy = '  A "Red"  square: it\tmoves~left!! (slowly); #1 * fin.\n'
    assert clean_text(messy) == "a red square it moves left slowly 1 fin"
    assert clean_text("word " * 60).split() == ["word"] * 50
    assert clean_text("a b c", max_words=2) == "a b"
    assert clean_text("...") == ""


@settings(deadline=None)
@given(st.text())
def test_cleaning_twice_changes_nothing(text):
    assert clean_text(clean_text(text)) == clean_text(text)


@settings(deadline=None)
@given(st.text(), st.integers(0, 5))
def test_each_character_of_a_clean_text_comes_from_a_place_in_the_text(text, max_words):
    clean, places = clean_text(text, max_words), clean_positions(text, max_words)
    assert len(clean) == len(places) and places == sorted(places)
    for letter, place in zip(clean, places, strict=True):
        assert letter == " " or letter in text.lower() and letter in text[place].lower() + "ς"


def test_a_letter_that_becomes_two_in_lower_case_keeps_its_place():
    text = '  A "Red"  İx!'
    assert clean_text(text) == "a red i̇x"
    assert clean_positions(text) == [2, 3, 5, 6, 7, 8, 11, 11, 12]


def test_offsets_are_characters_of_the_text_before_it_was_cleaned(tokenizer):
    texts = ['  A "green"  Triangle: grows!!', "...", "Café"]
    ids, _ = tokenizer.encode(texts, 12)
    offsets = tokenizer.offsets(texts, 12)
    assert offsets.shape == (*ids.shape, 2) and offsets.dtype == torch.int64
    pieces = [[text[start:end] for start, end in row if end] for text, row in zip(texts, offsets.tolist(), strict=True)]
    assert pieces[0] == ["A", "green", "Triangle", "grows"] and pieces[1] == [] and "".join(pieces[2]) == "Café"
    assert (offsets[ids == 2] == 0).all() and (offsets[ids == 3] == 0).all() and (offsets[ids == 0] == 0).all()
    assert tokenizer.offsets([], 12).shape == (0, 0, 2)
    assert [texts[0][a:b] for a, b in tokenizer.offsets(texts[:1], 4)[0].tolist()] == ["", "A", "green", ""]


def test_encoding_is_padded_between_its_two_ends(tokenizer):
    ids, mask = tokenizer.encode(["A green triangle grows!", ""], 12)
    assert ids.shape == mask.shape == (2, 6) and ids.dtype == mask.dtype == torch.int64
    assert tokenizer.decode(ids[0]) == "a green triangle grows"
    assert ids[1].tolist() == [2, 3] + [tokenizer.pad_token_id] * 4
    assert mask.sum(1).tolist() == [6, 2]
    assert (ids[mask == 0] == tokenizer.pad_token_id).all()


def test_long_texts_are_cut_before_the_end_token(tokenizer):
    ids, mask = tokenizer.encode(["a green triangle grows and grows and grows"], 5)
    assert ids[0, -1] == 3 and mask.all()
    assert tokenizer.decode(ids[0]) == "a green triangle"


def test_no_texts_give_no_rows(tokenizer):
    assert [t.shape for t in tokenizer.encode([], 7)] == [(0, 0), (0, 0)]


def test_words_never_seen_are_spelled_with_known_letters(tokenizer):
    ids, mask = tokenizer.encode(["tangles", "日本"], 12)
    assert tokenizer.decode(ids[0]) == "tangles"
    assert 1 not in ids[0] and 1 in ids[1]


def test_special_tokens_have_their_own_ids(tokenizer):
    assert tokenizer.bos_token_id == tokenizer.vocab_size - 1
    assert tokenizer.pad_token_id == 0
    ids, _ = tokenizer.encode(CAPTIONS, 40)
    assert ids.max() < tokenizer.bos_token_id


def test_training_keeps_to_the_size():
    assert Tokenizer.train(CAPTIONS, 80).vocab_size == 80
    with pytest.raises(ValueError, match="size is 20, expected more than"):
        Tokenizer.train(CAPTIONS, 20)


def test_training_gives_the_same_ids_in_every_process(tmp_path):
    code = (
        "import sys; from stgt.data.text import Tokenizer\n"
        "words = [f'{a}{b}{c}' for a in 'bdgk' for b in 'aeio' for c in ('st', 'nd', 'rk', 'mp')]\n"
        "Tokenizer.train([' '.join(words[i : i + 4]) for i in range(60)], 100).save(sys.argv[1])"
    )
    digests = set()
    for run in range(4):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / str(run))], check=True, timeout=500)
        digests.add(hashlib.sha256((tmp_path / str(run) / "vocab.txt").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_saved_tokenizer_is_the_same_one(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "saved")
    for again in (Tokenizer.load(tmp_path / "saved"), Tokenizer.from_pretrained(str(tmp_path / "saved"))):
        assert (again.vocab_size, again.bos_token_id) == (tokenizer.vocab_size, tokenizer.bos_token_id)
        assert torch.equal(again.encode(CAPTIONS, 30)[0], tokenizer.encode(CAPTIONS, 30)[0])


@pytest.fixture
def bert(tmp_path):
    """A folder like that of bert-base-uncased, with as many pieces: 30522, without [DEC]."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "square", "##s"]
    pieces += [f"[unused{i}]" for i in range(30522 - len(pieces))]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return tmp_path


def test_bert_gets_the_token_that_begins_generation(bert):
    tokenizer = Tokenizer.from_pretrained(str(bert))
    assert (tokenizer.vocab_size, tokenizer.bos_token_id) == (30523, 30522)
    assert tokenizer.encode(["Red squares"], 6)[0].tolist() == [[2, 6, 7, 8, 3]]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_of_a_vocabulary_ends_with_a_line_feed_alone(end, tmp_path):
    odd = ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "a\rb", "\u3000"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *odd, "red"]
    (tmp_path / "vocab.txt").write_bytes(("\ufeff" + end.join(pieces) + end).encode("utf-8"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.vocab_size == len(pieces) + 1 and tokenizer.encode(["red"], 3)[0].tolist() == [[2, 11, 3]]
    tokenizer.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").encode(["red"], 3)[0].tolist() == [[2, 11, 3]]


def test_bert_from_tokenizer_json(bert):
    vocabulary = {piece: i for i, piece in enumerate((bert / "vocab.txt").read_text().split())}
    (bert / "vocab.txt").unlink()
    (bert / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": vocabulary}}))
    assert Tokenizer.load(bert).bos_token_id == 30522
    (bert / "tokenizer.json").write_text("\ufeff" + json.dumps({"model": {"vocab": vocabulary}}), "utf-8")
    assert Tokenizer.load(bert).bos_token_id == 30522
    (bert / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocabulary}}))
    with pytest.raises(ValueError, match='"BPE" tokenizer, expected "WordPiece"'):
        Tokenizer.load(bert)


def test_an_unreachable_hub_says_what_to_do(monkeypatch):
    def unreachable(*_):
        raise OSError("name resolution failed")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(OSError, match="'bert-base-uncased'.*name resolution failed.*vocab.txt.*train"):
        Tokenizer.from_pretrained("bert-base-uncased")


def test_mistakes_are_named(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="string 'a red square', expected a list"):
        tokenizer.encode("a red square", 8)
    with pytest.raises(ValueError, match="max_length is 1"):
        tokenizer.encode(["a"], 1)
    with pytest.raises(ValueError, match="neither vocab.txt nor tokenizer.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match=r"no \[UNK\], \[SEP\]"):
        Tokenizer({"[PAD]": 0, "[CLS]": 1})
    with pytest.raises(ValueError, match="ids are not 0 to 3"):
        Tokenizer({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 4})
