"""The models of an index inside the package sentence-transformers, for its evaluators, vector stores and re-rankers.

A text has one vector and a video has Q. Their similarity is the largest cosine (Eq. 16 of arXiv 2407.11677), which is
late interaction with the text as the query.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stgt.distributed import choose_device
from stgt.evaluation.encode import tokenize
from stgt.evaluation.retrieval import own_scores
from stgt.extras import naming_the_extra
from stgt.retriever import Retriever
from stgt.runs import precision
from stgt.search.encoder import Encoder, open_encoder
from stgt.search.inputs import as_windows, sentence_or_video, video_pixels

with naming_the_extra():
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
    from sentence_transformers.base.modules import InputModule
    from sentence_transformers.util import maxsim, maxsim_pairwise, mean_maxsim, mean_maxsim_pairwise

Embeddings = Tensor | Sequence[Tensor]


class _Module(InputModule):
    """The part that both adapters share: the kinds of inputs, and that they are not saved."""

    @property
    def modalities(self) -> list[str]:
        return ["text", "image", "video"]

    def save(self, output_path: str, *args: object, **kwargs: object) -> NoReturn:
        raise ValueError(
            f"{output_path}: an adapter is not saved, expected Retriever.push_to_hub or Retriever.save_pretrained, "
            "from which the adapter can be made again"
        )


class Vectors(_Module):
    """A module of sentence-transformers that gives the vectors of sentences, videos and images.

    `SentenceTransformer(modules=[Vectors("openclip:…")])` takes a model that has one vector for a video.
    """

    def __init__(
        self, model: str | Path | Retriever | Encoder, *, device: str = "auto", tokenizer: str | None = None
    ) -> None:
        """model, device, tokenizer: see `stgt.Index`."""
        super().__init__()
        encoder = model if hasattr(model, "encode_windows") else open_encoder(model, device=device, tokenizer=tokenizer)
        self.encoder: Encoder = encoder
        network = getattr(encoder, "network", None)
        if network is not None:
            self.network = network  # sentence-transformers moves its modules to a device
        self._alone = False

    def on_model_ready(self, model: nn.Module) -> None:
        self._alone = isinstance(model, SentenceTransformer)

    def get_embedding_dimension(self) -> int:
        """The length of a vector, E."""
        return self.encoder.encode_texts(["a"]).shape[1]

    def preprocess(self, inputs: Sequence[object], prompt: str | None = None, **kwargs: object) -> dict[str, list]:
        """Read the videos among some inputs. The forms of an input are those of `sentence_or_video`.

        prompt: it is put in front of each sentence. Raises ValueError for an input of another form, and VideoError for
        a file that cannot be read.
        """
        found = [sentence_or_video(value) for value in inputs]
        return {
            "inputs": [
                (prompt or "") + value if isinstance(value, str) else video_pixels(value, self.encoder.pixels)
                for value in found
            ]
        }

    def forward(self, features: dict, **kwargs: object) -> dict:
        """Add token_embeddings (B, Q, E) and attention_mask (B, Q), on the CPU.

        For a SentenceTransformer, sentence_embedding (B, E) is added, too. Raises ValueError if Q is not 1 there.
        """
        inputs = features["inputs"]
        texts = [value for value in inputs if isinstance(value, str)]
        clips = [value for value in inputs if not isinstance(value, str)]
        of_texts = iter(self.encoder.encode_texts(texts)[:, None] if texts else ())
        of_clips = (clip for part in as_windows(clips) for clip in self.encoder.encode_windows(part))
        vectors = [next(of_texts if isinstance(value, str) else of_clips) for value in inputs]
        lengths = torch.tensor([len(each) for each in vectors])
        padded = pad_sequence(vectors, batch_first=True)
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        features |= {"token_embeddings": padded, "attention_mask": mask}
        if self._alone:
            if padded.shape[1] != 1:
                raise ValueError(f"a video has {padded.shape[1]} vectors, expected VideoTextEncoder for such a model")
            features["sentence_embedding"] = padded[:, 0]
        return features


class _AnyInputs:
    """Inputs go to the module as they are: sentences, videos and images may be mixed."""

    def preprocess(self, inputs: Sequence[object], prompt: str | None = None, **kwargs: object) -> dict:
        return self[0].preprocess(inputs, prompt=prompt, **kwargs)


class VideoTextEncoder(_AnyInputs, MultiVectorEncoder):
    """A `MultiVectorEncoder` of sentences, videos and images, with the similarity of `stgt`."""

    def __init__(
        self, model: str | Path | Retriever | Encoder, *, device: str = "auto", tokenizer: str | None = None
    ) -> None:
        """model: a model of `stgt.load`, its name, or "openclip:ARCHITECTURE/WEIGHTS"; the others: see `stgt.load`."""
        device = str(choose_device(device))
        super().__init__(modules=[Vectors(model, device=device, tokenizer=tokenizer)], device=device)

    def similarity(self, embeddings1: Embeddings, embeddings2: Embeddings, **kwargs: object) -> Tensor:
        """The similarity of each of n queries with each of m documents: float32 (n, m).

        It is the largest cosine if one of the two is a sentence. For two videos, it is the mean, over the vectors of
        the query, of the largest cosine (`stgt.search.ranking`).
        """
        queries, documents = _as_list(embeddings1), _as_list(embeddings2)
        scores = mean_maxsim(queries, documents, **kwargs)
        alone = [place for place, vectors in enumerate(documents) if len(vectors) == 1]
        if alone:
            scores[:, alone] = maxsim([documents[place] for place in alone], queries, **kwargs).T.to(scores)
        return scores

    def similarity_pairwise(self, embeddings1: Embeddings, embeddings2: Embeddings, **kwargs: object) -> Tensor:
        """The similarity of each of n queries with the document of the same number: float32 (n,)."""
        queries, documents = _as_list(embeddings1), _as_list(embeddings2)
        scores = mean_maxsim_pairwise(queries, documents, **kwargs)
        alone = torch.tensor([len(vectors) == 1 for vectors in documents], device=scores.device)
        return torch.where(alone, maxsim_pairwise(documents, queries, **kwargs).to(scores), scores)


class Pairs(_Module):
    """A module of sentence-transformers that scores pairs of a sentence and a video with a model of `stgt`."""

    def __init__(self, retriever: Retriever) -> None:
        super().__init__()
        self.retriever, self.network = retriever, retriever.run.model
        self._pixels = open_encoder(retriever).pixels

    def preprocess(self, inputs: Sequence[Sequence[object]], prompt: str | None = None, **kwargs: object) -> dict:
        """Read the videos of some pairs, each distinct file once.

        inputs: pairs of a sentence and a video in any order, in the forms of `sentence_or_video`. Raises ValueError for
        a pair of another kind, and VideoError for a file that cannot be read.
        """
        texts, clips, rows, places = [], [], [], {}
        for pair in inputs:
            found = [sentence_or_video(value) for value in pair]
            if [isinstance(value, str) for value in found] not in ([True, False], [False, True]):
                raise ValueError(f"a pair is {pair!r}, expected a sentence and a video")
            which = int(isinstance(found[0], str))
            texts.append((prompt or "") + found[1 - which])
            video = found[which]
            key = video if isinstance(video, Path) else id(pair[which])
            if key not in places:
                places[key] = len(clips)
                clips.append(video_pixels(video, self._pixels))
            rows.append(places[key])
        return {"texts": texts, "clips": clips, "rows": rows}

    def forward(self, features: dict, **kwargs: object) -> dict:
        """Add "scores", float32 (B, 1)."""
        run, rows = self.retriever.run, torch.tensor(features["rows"])
        words = tokenize(run, features["texts"])
        scores = torch.empty(len(rows))
        with precision(run):
            first = 0
            for part in as_windows(features["clips"]):
                mine = ((rows >= first) & (rows < first + len(part.rows))).nonzero()[:, 0]
                place = (rows[mine] - first).to(run.device)
                clips = run.model.encode_video(part.pixels[part.rows].to(run.device))
                ids, mask = (tensor[mine].to(run.device) for tensor in words)
                similarity = run.model.similarity(clips.queries, run.model.encode_text(ids, mask)).float()
                logits = run.model.match(clips.embeds, ids, mask, rows=place).float()
                own = similarity[place, torch.arange(len(mine), device=run.device)] + own_scores(run.model, logits)
                scores[mine] = own.cpu()
                first += len(part.rows)
        return features | {"scores": scores[:, None]}


class VideoTextReranker(_AnyInputs, CrossEncoder):
    """A `CrossEncoder` that ranks pairs of a sentence and a video with the matching head of a model of `stgt`.

    A score is the similarity plus the matching score, by which `stgt evaluate` and `stgt search` re-rank.
    """

    def __init__(self, model: str | Path | Retriever, *, device: str = "auto", tokenizer: str | None = None) -> None:
        """model, device, tokenizer: see `stgt.load`."""
        if not isinstance(model, Retriever):
            model = Retriever(model, device=device, tokenizer=tokenizer)
        model.run.require_trained("matching", "pairs cannot be ranked")
        super().__init__(modules=[Pairs(model)], device=str(model.device), activation_fn=nn.Identity())


def _as_list(embeddings: Embeddings) -> list[Tensor]:
    """The vectors of each input. A single (n, E) tensor belongs to one input."""
    if isinstance(embeddings, list):
        return [torch.as_tensor(vectors) for vectors in embeddings]
    vectors = torch.as_tensor(embeddings)
    return list(vectors if vectors.dim() == 3 else vectors[None])
