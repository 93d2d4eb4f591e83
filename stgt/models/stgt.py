"""The model STGT: vision tower, graph transformer and Q-Former, trained with contrast, matching and generation."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt import gather, losses
from stgt.config import LossConfig, ModelConfig
from stgt.data.words import predicted_places
from stgt.models.bert import VideoKeys
from stgt.models.chunks import recomputed, split_batch
from stgt.models.encoder import VideoEncoder
from stgt.models.negatives import Pairs
from stgt.models.pairs import same_pairs
from stgt.models.qformer import QFormer
from stgt.models.rows import select_places, select_rows
from stgt.weights import pretrained


class VideoFeatures(NamedTuple):
    """The model's output for a batch of videos."""

    embeds: Tensor
    """(B, S, C) video tokens, which the Q-Former's cross-attention reads"""
    queries: Tensor
    """(B, Q, E) unit vectors, which are compared with texts"""
    stats: dict[str, Tensor]
    """Statistics as scalars, such as "edges_per_token" """


class Read(NamedTuple):
    """The outputs for each pair of a batch that the losses of training need."""

    embeds: Tensor
    keys: VideoKeys | None
    queries: Tensor
    texts: Tensor
    written: Tensor | None
    """The loss of generation, a scalar, or None without it"""
    stats: dict[str, Tensor]


class STGT(VideoEncoder):
    """The retrieval model of "Video-Language Alignment via Spatio-Temporal Graph Transformer" (arXiv 2407.11677)."""

    def __init__(self, config: ModelConfig, tower: bool = True) -> None:
        super().__init__(config, tower)
        q = config.qformer
        self.qformer = QFormer(q, config.vision.sizes.width)
        self.vision_proj = nn.Linear(q.hidden, q.embed_dim)
        self.text_proj = nn.Linear(q.hidden, q.embed_dim)
        self.itm_head = nn.Linear(q.hidden, 2)
        self.temp = nn.Parameter(torch.tensor(q.temperature))

    @classmethod
    def from_pretrained(cls, name: str | Path, *, tower: bool = True, revision: str | None = None) -> STGT:
        """Load a model that `save_pretrained` or `stgt convert` wrote, on the CPU and in evaluation mode.

        name: its folder, or its name on the Hugging Face hub; revision: its revision on the hub. tower=False leaves out
        the vision tower. If the folder has no tower but names one of open_clip's, that one is downloaded.
        Raises ValueError if it is not such a folder or if its tensors do not fit its configuration, and OSError if the
        hub does not have it.
        """
        return pretrained.load(cls, name, tower, revision)

    def save_pretrained(self, folder: str | Path, *, training: pretrained.Training | None = None) -> None:
        """Write `config.json` and `model.safetensors`, which `from_pretrained` loads.

        A model that this wrote before is replaced. The folder tells commands the facts about the training, such as the
        number of frames of a video, and has no tokenizer. `Retriever.save_pretrained` writes all of it.
        Raises ValueError for a folder that holds a run or files of another model.
        """
        pretrained.save(self, folder, training or pretrained.Training())

    def encode_video(self, video: Tensor | None = None, *, tokens: Tensor | None = None) -> VideoFeatures:
        """Video tokens and query vectors of videos, or of tokens that the tower made before.

        video: (B, T, 3, S, S) or tokens: (B, T, 1+P, C), for any T; T=1 for images. Exactly one of them is given.
        """
        embeds, stats = self._embed(video, tokens)
        return VideoFeatures(embeds, self._queries(self.qformer.video(embeds)), stats)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit vectors of texts. input_ids, attention_mask: (B, L) int64. Returns (B, E) float32."""
        return self._text(self.qformer.text(input_ids, attention_mask, outputs=1)[:, 0])

    def similarity(self, queries: Tensor, texts: Tensor) -> Tensor:
        """Largest cosine over queries (Eq. 16), not divided by `temp`. (Bv, Q, E), (Bt, E). Returns (Bv, Bt)."""
        return losses.similarity(queries, texts)

    def match(
        self, video: Tensor | VideoKeys, input_ids: Tensor, attention_mask: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Logits of "does not match" and "matches" for pairs of a video and a text.

        video: embeds (N, S, C), or their keys from `qformer.keys`; input_ids, attention_mask: (B, L); rows: int64 (B,),
        the number of the video of each text, where None means that text i has video i. Returns (B, 2).
        """
        hidden = self.qformer.fused(video, input_ids, attention_mask, rows, outputs=self.config.qformer.queries)
        return self.itm_head(hidden).mean(1)

    def generate_logits(
        self, video: Tensor | VideoKeys, input_ids: Tensor, attention_mask: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, V) of the next word at each position. The first token of each text is replaced by [DEC].

        The arguments are those of `match`.
        """
        hidden = self.qformer.causal(video, self._begun(input_ids), attention_mask, rows)
        return self.qformer.word_logits(hidden[:, self.config.qformer.queries :])

    def forward(
        self, batch: dict[str, Tensor], loss: LossConfig, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The training objective, L = (VTC or CSAL) + VTM + VTG (Eq. 21), over the pairs of all processes.

        batch: video (n, T, 3, S, S) or tokens (n, T, 1+P, C); input_ids and attention_mask (n, L); predicted, the
        result of `predicted_places` for the mask, which is computed here if it is missing; with `loss.multi_positive`
        also video_index (n,), a number for each video. n is the same in every process.
        generator: a CPU generator for drawing hard negatives; the numbers of rank 0 are used everywhere.
        Returns scalars: "loss", whose mean over processes is the loss of the global batch, its parts "vtc" or
        "csal", "vtm", "vtg", and statistics. A part with weight 0 is neither computed nor returned.
        """
        # A chunk is computed again outside of the block, so both times have to be outside.
        with self.qformer.embeddings.one_gradient() if loss.chunk is None else nullcontext():
            return self._objective(batch, loss, generator)

    def _objective(
        self, batch: dict[str, Tensor], loss: LossConfig, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        words = gather.mean(losses.predicted_words(mask)) if loss.vtg_weight else None
        chunked = loss.chunk is not None
        read = self._read_in_chunks(batch, words, loss) if chunked else self._read(batch, words, loss)
        queries, texts = read.queries, read.texts
        all_queries = gather.gather(queries, loss.gather_gradients)
        all_texts = gather.gather(texts, loss.gather_gradients)
        temp, offset = self.temp.float(), gather.rank() * len(ids)
        same = same_pairs(batch) if loss.multi_positive else None
        v2t = losses.similarity(queries, all_texts) / temp
        t2v = losses.similarity(all_queries, texts).T / temp

        parts = {}
        if loss.alignment_weight and loss.alignment == "vtc":
            parts["vtc"] = losses.vtc_loss(v2t, t2v, smoothing=loss.vtc_smoothing, offset=offset, same=same)
        elif loss.alignment_weight:
            targets = losses.csal_targets(
                queries, texts, all_queries, all_texts, gamma=loss.gamma, mask=loss.csal_mask, same=same
            )
            targets = targets.detach() if loss.detach_target else targets
            parts["csal"] = losses.csal_loss(v2t, t2v, targets, smoothing=loss.csal_smoothing)
        if loss.vtm_weight:
            draws = gather.shared_uniform(2, len(all_texts), device=v2t.device, generator=generator)
            wrong_text, wrong_video = (
                losses.hard_negatives(logits, draw[offset : offset + len(ids)], offset=offset, same=same)
                for logits, draw in zip((v2t, t2v), draws, strict=True)
            )
            pairs = Pairs.with_negatives(ids, mask, wrong_video, wrong_text)
            if chunked:
                logits = self._match_in_chunks(read.embeds, pairs, loss.chunk)
            else:
                logits = self._match_with_negatives(read.embeds, read.keys, pairs)
            parts["vtm"] = losses.vtm_loss(logits.flatten(0, 1), matched=len(ids))
        if loss.vtg_weight:
            parts["vtg"] = read.written

        weights = {loss.alignment: loss.alignment_weight, "vtm": loss.vtm_weight, "vtg": loss.vtg_weight}
        total = sum(weights[name] * part for name, part in parts.items())
        return {"loss": total, **{name: value.detach() for name, value in (parts | read.stats).items()}}

    def _read(self, batch: dict[str, Tensor], words: Tensor | None, loss: LossConfig) -> Read:
        """Everything that the model computes for each pair alone. words: the divisor of the loss of generation."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        embeds, stats = self._embed(batch.get("video"), batch.get("tokens"))
        if len(ids) != len(embeds):
            raise ValueError(f"input_ids has {len(ids)} texts for {len(embeds)} videos, expected one each")
        keys = self.qformer.keys(embeds)
        if not loss.vtg_weight:
            queries, texts = self._queries(self.qformer.video(keys)), self.encode_text(ids, mask)
            return Read(embeds, keys, queries, texts, None, stats)
        # The queries do not see words in this pass, so it serves both contrast and generation.
        queries, hidden, text = self.qformer.read(keys, self._begun(ids), ids, mask)
        predicted = batch["predicted"] if "predicted" in batch else predicted_places(mask)
        logits = self.qformer.word_logits(select_places(hidden[:, :-1], predicted))
        target = select_places(ids[:, 1:], predicted)
        written = losses.vtg_loss(logits, target, words, smoothing=loss.vtg_smoothing)
        return Read(embeds, keys, self._queries(queries), self._text(text), written, stats)

    def _read_in_chunks(self, batch: dict[str, Tensor], words: Tensor | None, loss: LossConfig) -> Read:
        """The result of `_read`. Activations of a chunk are freed at once, and computed again in its backward pass."""
        chunks = split_batch(batch, ("video", "tokens", "input_ids", "attention_mask"), loss.chunk)
        for chunk in chunks:
            chunk["predicted"] = predicted_places(chunk["attention_mask"])

        def read_part(part: dict[str, Tensor]) -> Read:
            return self._read(part, words, loss)._replace(keys=None)

        reads = []
        for chunk in chunks:
            if self.config.vision.open_blocks == 0 and "video" in chunk:  # a frozen tower need not run a second time
                chunk["tokens"] = self.visual_tokens(chunk.pop("video"))
            reads.append(recomputed(read_part, chunk))
        parts, sizes = Read(*zip(*reads, strict=True)), [len(read.embeds) for read in reads]
        stats = {
            name: sum(size * read.stats[name] for size, read in zip(sizes, reads, strict=True)) / sum(sizes)
            for name in reads[0].stats
        }
        written = sum(parts.written) if loss.vtg_weight else None
        embeds, queries, texts = (torch.cat(each) for each in (parts.embeds, parts.queries, parts.texts))
        return Read(embeds, None, queries, texts, written, stats)

    def _begun(self, input_ids: Tensor) -> Tensor:
        """The texts (B, L) with [DEC] as the first token, from which generation begins."""
        begin = torch.full_like(input_ids[:, :1], self.config.qformer.bos_token_id)
        return torch.cat([begin, input_ids[:, 1:]], 1)

    def _queries(self, hidden: Tensor) -> Tensor:
        return F.normalize(self.vision_proj(hidden).float(), dim=-1)

    def _text(self, hidden: Tensor) -> Tensor:
        return F.normalize(self.text_proj(hidden).float(), dim=-1)

    def _match_with_negatives(self, embeds: Tensor, keys: VideoKeys, pairs: Pairs) -> Tensor:
        """Matching logits (3, n, 2) of true pairs, of wrong videos with the texts, and of videos with wrong texts.

        embeds: (n, S, C), the videos of this process; keys: those of embeds.
        """
        wrong = pairs.wrong_video
        if gather.world_size() > 1:
            # Keys are several times larger than embeds, so those of other processes are computed again, not sent.
            others = self.qformer.keys(select_rows(gather.gather(embeds), wrong))
            keys = tuple(torch.cat(both) for both in zip(keys, others, strict=True))
            wrong = torch.arange(len(wrong), 2 * len(wrong), device=wrong.device)
        return self._match_three(keys, wrong, pairs)

    def _match_in_chunks(self, embeds: Tensor, pairs: Pairs, size: int) -> Tensor:
        """The logits of `_match_with_negatives`, in chunks of `size` pairs.

        The activations of a chunk are freed at once, and computed again in the backward pass.
        """
        everyone = gather.gather(embeds)

        def match(own: Tensor, chunk: Pairs) -> Tensor:
            keys = self.qformer.keys(torch.cat([own, select_rows(everyone, chunk.wrong_video)]))
            return self._match_three(keys, torch.arange(len(own), 2 * len(own), device=own.device), chunk)

        chunks = zip(embeds.split(size), pairs.split(size), strict=True)
        return torch.cat([recomputed(match, own, chunk) for own, chunk in chunks], 1)

    def _match_three(self, keys: VideoKeys, wrong: Tensor, pairs: Pairs) -> Tensor:
        """The logits (3, n, 2) of `_match_with_negatives`.

        keys: those of the n true videos first; wrong: int64 (n,), the rows of the wrong videos.
        """
        own = torch.arange(len(wrong), device=wrong.device)
        logits = self.match(
            keys,
            torch.cat([pairs.ids, pairs.ids, pairs.wrong_ids]),
            torch.cat([pairs.mask, pairs.mask, pairs.wrong_mask]),
            rows=torch.cat([own, wrong, own]),
        )
        return logits.unflatten(0, (3, -1))
