"""Questions and answers as a causal language model reads and writes them.

transformers is slow to import, so it is imported when a tokenizer is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import stgt._torchvision  # noqa: F401  (transformers imports torchvision)
from stgt.causes import cause_of
from stgt.data.entries import Question
from stgt.data.samples import collate
from stgt.data.text import clean_text
from stgt.data.words import IGNORED, labelled_places
from stgt.files import atomic_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT = "Question: {} Short answer:"
"""The prompt of BLIP-2 for short answers"""
SPECIAL = ("<s>", "<pad>", "</s>")  # their ids are those of OPT: 0, 1, 2


class LanguageTokenizer:
    """A language model's own tokenizer, with the prompt around questions and the end token after answers.

    The end token is also used for padding, because a token that was added for padding may have no embedding in the
    model. Every batch has a mask.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises ValueError for a tokenizer without an end token."""
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no eos_token, expected one to end answers"
            )
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name: str | Path) -> LanguageTokenizer:
        """The tokenizer of a model on the hub or in a folder. Raises OSError if it cannot be loaded."""
        from transformers import AutoTokenizer

        with language_errors(name, "tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(name)
        return cls(tokenizer)

    @classmethod
    def train(cls, questions: Iterable[Question], tokenizer_size: int) -> LanguageTokenizer:
        """A byte-level BPE tokenizer of at most `tokenizer_size` tokens, fitted to prompts with their answers.

        Raises ValueError if `tokenizer_size` has no room for every byte and the special tokens.
        """
        from transformers import PreTrainedTokenizerFast

        bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
        if tokenizer_size < (least := len(bytes_) + len(SPECIAL)):
            raise ValueError(
                f"tokenizer_size is {tokenizer_size}, expected at least {least}: every byte and the special tokens"
            )
        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=tokenizer_size, special_tokens=list(SPECIAL), initial_alphabet=bytes_, show_progress=False
        )
        bpe.train_from_iterator((f"{prompt(q.question)} {q.answer}" for q in questions), trainer)
        begin, pad, end = SPECIAL
        return cls(PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=end, eos_token=end, pad_token=pad))

    def save(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` reads. An older folder of that name is replaced."""
        with atomic_folder(folder, replace=True) as partial:
            self._tokenizer.save_pretrained(partial)

    @property
    def vocabulary(self) -> dict[str, int]:
        """{token: id}"""
        return self._tokenizer.get_vocab()

    @property
    def vocab_size(self) -> int:
        return len(self._tokenizer)

    @property
    def eos_token_id(self) -> int:
        return self._tokenizer.eos_token_id

    def encode(self, question: str, answer: str | None = None) -> tuple[list[int], int]:
        """Token ids of a prompt, and the number of them; an answer and the end token follow if an answer is given.

        Raises ValueError if the tokenizer joins the end of the prompt to the answer.
        """
        ids = self._ids(prompt(question))
        if answer is None:
            return ids, len(ids)
        # Both are encoded together, because some vocabularies join the space before an answer to its first token.
        both = self._ids(f"{prompt(question)} {answer.strip()}")
        if both[: len(ids)] != ids:
            raise ValueError(f"the tokenizer of {self._tokenizer.name_or_path!r} joins a prompt's end to its answer")
        return [*both, self.eos_token_id], len(ids)

    def encode_prompts(self, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Prompts padded on the left, so that all end at the same place: input_ids and attention_mask, int64 (B, L)."""
        return self._pad([torch.tensor(self.encode(question)[0]) for question in questions], "left")

    def collate(self, items: list[dict]) -> dict:
        """A batch of `QuestionDataset`'s training items, with input_ids, attention_mask and labels: int64 (B, L).

        labels holds the tokens to predict (the answer and the end token) at their places, and -100 elsewhere. There is
        also `predicted`, the result of `labelled_places`.
        """
        encoded = [self.encode(item["question"], item["answer"]) for item in items]
        ids, mask = self._pad([torch.tensor(ids) for ids, _ in encoded], "right")
        starts = torch.tensor([start for _, start in encoded])[:, None]
        labels = ids.masked_fill((torch.arange(ids.shape[1]) < starts) | (mask == 0), IGNORED)
        texts = {"input_ids": ids, "attention_mask": mask, "labels": labels, "predicted": labelled_places(labels)}
        return collate(items) | texts

    def decode(self, ids: Tensor) -> list[str]:
        """The first lines of the texts of token ids (B, L), without special tokens. Further lines are no answer."""
        texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip().partition("\n")[0].strip() for text in texts]

    def _ids(self, text: str) -> list[int]:
        """Token ids with the begin token, if the tokenizer has one, and without other tokens that it would add.

        A question or answer that holds the name of a special token, such as "</s>", has the letters of the name.
        """
        begin = self._tokenizer.bos_token_id
        ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids if begin is None else [begin, *ids]

    def _pad(self, rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
        ids = pad_sequence(rows, batch_first=True, padding_value=self.eos_token_id, padding_side=side)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
        return ids, mask


@contextmanager
def language_errors(name: str | Path, part: str) -> Iterator[None]:
    """Turn any error while `part` of a language model is loaded into an OSError that says what was expected."""
    expected = "expected a folder that save_pretrained wrote, or a causal language model's name on the Hugging Face hub"
    if str(name).startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise OSError(f"LanguageConfig.model is {str(name)!r}, and there is no such folder; {expected}")
    try:
        yield
    except Exception as error:  # the hub's client also raises errors of its network library
        where = "its folder" if Path(name).is_dir() else "no folder here, and the hub"
        raise OSError(
            f"LanguageConfig.model is {str(name)!r}: {where} did not give its {part} ({cause_of(error)}); {expected}"
        ) from error


def prompt(question: str) -> str:
    """The prompt with a cleaned question in it."""
    return PROMPT.format(clean_text(question))
