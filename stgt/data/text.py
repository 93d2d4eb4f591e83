"""Captions: how they are cleaned, and a WordPiece tokenizer, which is BERT's or is trained on the captions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

from stgt.causes import cause_of
from stgt.data.lines import read_lines
from stgt.files import write_text
from stgt.paths import given_path
from stgt.structure import field, read_json, shown

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BEGIN = "[DEC]"
_DROPPED = r'[.!"()*#:;~]'


def clean_text(text: str, max_words: int = 50) -> str:
    """The text in lower case, with spaces for `.!"()*#:;~`, single spaces, and at most `max_words` words.

    BLIP cleans captions in the same way.
    """
    words = re.sub(_DROPPED, " ", text.lower()).split()
    return " ".join(words[:max_words])


def clean_positions(text: str, max_words: int = 50) -> list[int]:
    """For each character of `clean_text(text, max_words)`, the place in `text` of the character that it comes from.

    A space that separates two words has the place after the first of them.
    """
    # A letter may become two letters in lower case: "İ" is followed by a dot there.
    places = [place for place, letter in enumerate(text) for _ in letter.lower()]
    words = itertools.islice(re.finditer(r"\S+", re.sub(_DROPPED, " ", text.lower())), max_words)
    found: list[int] = []
    for word in words:
        if found:
            found.append(found[-1] + 1)
        found += places[word.start() : word.end()]
    return found


def wordings(texts: Iterable[str]) -> list[int]:
    """A number for each text, from 0. Texts that are equal after `clean_text` have the same number."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(clean_text(text), len(numbers)) for text in texts]


class Tokenizer:
    """BERT's uncased WordPiece with one more token, [DEC], which begins a text that is generated."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        """vocabulary: {word piece: id} with the ids 0 to n−1. [DEC] is added with the next id if it is missing.

        Raises ValueError if one of [PAD] [UNK] [CLS] [SEP] is missing or the ids leave gaps.
        """
        if missing := [token for token in SPECIAL[:4] if token not in vocabulary]:
            raise ValueError(f"vocabulary has no {', '.join(missing)}, expected a WordPiece vocabulary like BERT's")
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise ValueError(f"vocabulary has {len(vocabulary)} pieces whose ids are not 0 to {len(vocabulary) - 1}")
        vocabulary = {**vocabulary} if BEGIN in vocabulary else {**vocabulary, BEGIN: len(vocabulary)}
        self._vocabulary = vocabulary
        self._tokenizer = _bert(models.WordPiece(vocabulary, unk_token="[UNK]"))
        ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
        self._tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)

    @classmethod
    def train(cls, captions: Iterable[str], tokenizer_size: int) -> Tokenizer:
        """Fit a vocabulary of at most `tokenizer_size` pieces, [DEC] included. The same captions always give the same
        ids.

        Raises ValueError if `tokenizer_size` has no room for the special tokens and every character of the captions.
        """
        captions = [clean_text(caption) for caption in captions]
        words = _bert(models.WordPiece(unk_token="[UNK]"))
        letters = sorted({letter for caption in captions for letter in words.normalizer.normalize_str(caption)} - {" "})
        # The trainer numbers pieces in the order of a randomly seeded hash map, and breaks ties by number. So every
        # one-letter piece is given beforehand, in order.
        pieces = [*SPECIAL, *letters, *("##" + letter for letter in letters)]
        if tokenizer_size <= len(pieces):
            raise ValueError(
                f"tokenizer_size is {tokenizer_size}, expected more than the {len(pieces)} special tokens and letters"
            )
        trainer = trainers.WordPieceTrainer(
            vocab_size=tokenizer_size - 1, special_tokens=pieces, limit_alphabet=len(letters), show_progress=False
        )
        words.train_from_iterator(captions, trainer)
        return cls(words.get_vocab())

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read a folder that `save` wrote, or a folder of BERT's with vocab.txt or tokenizer.json.

        Raises ValueError, naming the folder or file, if it has neither, and for another vocabulary than WordPiece's.
        """
        lines, whole = Path(folder) / "vocab.txt", Path(folder) / "tokenizer.json"
        if lines.is_file():
            return cls._read(lines)
        if whole.is_file():
            return cls._read(whole)
        raise ValueError(f"{folder} holds neither vocab.txt nor tokenizer.json, expected a tokenizer's folder")

    @classmethod
    def from_pretrained(cls, name: str) -> Tokenizer:
        """Read a tokenizer's folder, or one from the Hugging Face hub, such as "bert-base-uncased".

        Raises OSError, with the ways to go on, if the hub does not give it.
        """
        if (folder := given_path(name)).is_dir():
            return cls.load(folder)
        from huggingface_hub import hf_hub_download

        try:
            file = hf_hub_download(name, "tokenizer.json")
        except Exception as error:  # the hub's client also raises errors of its network library
            raise OSError(
                f"the tokenizer {name!r} is no folder here, and the Hugging Face hub did not give it "
                f"({cause_of(error)}); "
                "give a folder with BERT's vocab.txt, or train a tokenizer on the captions with --data.tokenizer train"
            ) from error
        return cls._read(Path(file))

    @classmethod
    def _read(cls, file: Path) -> Tokenizer:
        try:
            if file.suffix == ".json":
                return cls(_wordpiece(file))
            pieces = (line.removesuffix("\n").removesuffix("\r") for line in read_lines(file))
            return cls({piece: number for number, piece in enumerate(pieces)})
        except ValueError as error:
            raise ValueError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None

    def save(self, folder: str | Path) -> None:
        """Write vocab.txt in BERT's format: one piece per line, in the order of ids."""
        pieces = sorted(self._vocabulary, key=self._vocabulary.__getitem__)
        write_text(Path(folder) / "vocab.txt", "\n".join(pieces) + "\n")

    @property
    def vocabulary(self) -> dict[str, int]:
        """{word piece: id}"""
        return {**self._vocabulary}

    @property
    def vocab_size(self) -> int:
        return len(self._vocabulary)

    @property
    def bos_token_id(self) -> int:
        return self._vocabulary[BEGIN]

    @property
    def sep_token_id(self) -> int:
        return self._vocabulary["[SEP]"]

    @property
    def pad_token_id(self) -> int:
        return self._vocabulary["[PAD]"]

    def encode(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """Token ids of each cleaned text, [CLS] pieces [SEP], cut at `max_length` and padded to the longest text.

        Returns input_ids and attention_mask, int64 (len(texts), L) with L of at most max_length. Raises ValueError for
        a single string, for values that are no texts, and for a length without room for the two ends.
        """
        encoded = self._encodings(texts, max_length)
        length = len(encoded[0].ids) if encoded else 0
        both = ([e.ids for e in encoded], [e.attention_mask for e in encoded])
        ids, mask = (torch.tensor(rows, dtype=torch.int64).reshape(len(texts), length) for rows in both)
        return ids, mask

    def offsets(self, texts: Sequence[str], max_length: int) -> Tensor:
        """The characters [start, end) of the text, before it is cleaned, that each token of `encode` stands for.

        Returns int64 (len(texts), L, 2), with (0, 0) for [CLS], [SEP] and padding. The errors are those of `encode`.
        """
        encoded = self._encodings(texts, max_length)
        places = [clean_positions(text) for text in texts]
        rows = [
            [(place[start], place[end - 1] + 1) if start < end else (0, 0) for start, end in e.offsets]
            for e, place in zip(encoded, places, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(texts), len(rows[0]) if rows else 0, 2)

    def _encodings(self, texts: Sequence[str], max_length: int) -> list[tokenizers.Encoding]:
        if isinstance(texts, str):
            raise ValueError(f"texts is the string {texts!r}, expected a list of strings")
        for text in texts:
            if not isinstance(text, str) or not _has_utf8(text):
                raise ValueError(f"texts holds {text!r}, expected strings that UTF-8 can encode")
        if max_length < 2:
            raise ValueError(f"max_length is {max_length}, expected at least 2: [CLS] and [SEP]")
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.enable_padding(pad_id=self.pad_token_id, pad_token="[PAD]")
        return self._tokenizer.encode_batch([clean_text(text) for text in texts])

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of token ids, without special tokens."""
        pieces = (self._tokenizer.id_to_token(int(number)) for number in ids)
        return self._tokenizer.decoder.decode([p for p in pieces if p not in (*SPECIAL, BEGIN)])


def _has_utf8(text: str) -> bool:
    """Whether a text has no lone surrogates, which stand for bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bert(model: models.Model) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _wordpiece(file: Path) -> dict[str, int]:
    """The vocabulary in a tokenizer.json. Raises ValueError for another kind than WordPiece."""
    model = field(read_json(file, dict), "model", dict, str(file))
    if model.get("type", "WordPiece") != "WordPiece":
        raise ValueError(f'{file} holds a {shown(model["type"])} tokenizer, expected "WordPiece"')
    vocabulary = field(model, "vocab", dict, str(file))
    for piece in vocabulary:
        field(vocabulary, piece, int, f"{file}: vocab")
    return vocabulary
