"""Video question answering: the Q-Former's queries, projected, are the first words that a language model reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig

from stgt import gather
from stgt.config import LossConfig, ModelConfig
from stgt.data.prompts import IGNORED
from stgt.models.encoder import VideoEncoder
from stgt.models.language import load_language_model
from stgt.models.qformer import QFormer


class VideoQA(VideoEncoder):
    """STGT's video side before a causal language model: queries → Linear → words (SPEC section 6).

    Trained are `ln_vision`, the queries, the Q-Former, the projection and what `config.language` adds to them; what is
    frozen stays in evaluation mode. Parts have the names that they have in `STGT`.
    """

    def __init__(self, config: ModelConfig, tower: bool = True) -> None:
        super().__init__(config, tower)
        if config.language is None:
            raise ValueError("ModelConfig.language is None, expected the language model that answers")
        self.qformer = QFormer(config.qformer, config.vision.width, text=False)
        self.language = load_language_model(config.language)
        self.language_proj = nn.Linear(config.qformer.hidden, self.language.get_input_embeddings().embedding_dim)
        self.graph.requires_grad_(config.language.train_graph)

    def train(self, mode: bool = True) -> VideoQA:
        super().train(mode)
        self.graph.train(mode and self.config.language.train_graph)
        self.language.train(mode and self.config.language.tune != "frozen")
        return self

    def encode_video(self, video: Tensor | None = None, *, tokens: Tensor | None = None) -> tuple[Tensor, dict]:
        """What the language model reads of videos (B, T, 3, S, S), or of the tower's tokens (B, T, 1+P, C).

        Returns (B, Q, E), E the width of its word embeddings, and scalars to watch.
        """
        embeds, stats = self._embed(video, tokens)
        return self.language_proj(self.qformer.video(embeds)), stats

    def forward(self, batch: dict[str, Tensor], loss: LossConfig | None = None) -> dict[str, Tensor]:
        """Next-word loss on the answers, averaged over the answer tokens of all processes.

        batch: video (n, T, 3, S, S) or tokens (n, T, 1+P, C); input_ids, attention_mask, labels (n, L) as
        `LanguageTokenizer.collate` makes them. `loss` is what every model of the trainer gets; nothing here depends on
        it. Returns scalars: "loss", "words_right" (the share of answer tokens that come first), and statistics.
        """
        queries, stats = self.encode_video(batch.get("video"), tokens=batch.get("tokens"))
        ids, labels = batch["input_ids"], batch["labels"]
        if len(ids) != len(queries):
            raise ValueError(f"input_ids has {len(ids)} prompts for {len(queries)} videos, expected one each")
        embeds, mask = self._read(queries, ids, batch["attention_mask"])
        logits = self.language(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
        # The last query predicts the first token of the text, so place i of these predicts token i.
        predictions = logits[:, queries.shape[1] - 1 : -1]
        answer = labels != IGNORED
        predicted, wanted = predictions[answer].float(), labels[answer]
        words = gather.mean(torch.tensor(float(len(wanted)), device=wanted.device))
        right = (predicted.argmax(-1) == wanted).sum() / words
        mean = F.cross_entropy(predicted, wanted, reduction="sum") / words
        return {"loss": mean, "words_right": right, **{name: value.detach() for name, value in stats.items()}}

    @torch.inference_mode()
    def answer(
        self,
        queries: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        end: int,
        beams: int = 5,
        max_tokens: int = 10,
        length_penalty: float = 0.0,
    ) -> Tensor:
        """Answers by beam search, which with one beam is greedy.

        queries: (B, Q, E) of `encode_video`; input_ids, attention_mask: prompts (B, L), padded anywhere; end: the token
        that ends an answer. Defaults are those of BLIP-2's question answering. Returns token ids (B, at most
        max_tokens), filled up with `end`; each row is what its prompt alone would give.
        """
        embeds, mask = self._read(queries, input_ids, attention_mask, room=max_tokens)
        # Padding goes to the left of all, so that prompts end together and places count from the first query.
        order = mask.sort(dim=1, stable=True).indices
        embeds, mask = embeds.gather(1, order[..., None].expand_as(embeds)), mask.gather(1, order)
        decoding = GenerationConfig(
            num_beams=beams,
            max_new_tokens=max_tokens,
            min_new_tokens=1,
            length_penalty=length_penalty if beams > 1 else None,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
        return self.language.generate(inputs_embeds=embeds, attention_mask=mask, generation_config=decoding)

    def _read(self, queries: Tensor, input_ids: Tensor, attention_mask: Tensor, room: int = 0) -> tuple[Tensor, Tensor]:
        """Queries and then text as embeddings (B, Q+L, E) of the language model's dtype, and their mask."""
        length = queries.shape[1] + input_ids.shape[1] + room
        most = getattr(self.language.config, "max_position_embeddings", length)
        if length > most:
            parts = f"{queries.shape[1]} queries, {input_ids.shape[1]} tokens of text and {room} of an answer to come"
            raise ValueError(f"{parts} are {length}, expected at most {most}, which the language model has places for")
        words = self.language.get_input_embeddings()(input_ids)
        embeds = torch.cat([queries.to(words.dtype), words], 1)
        return embeds, F.pad(attention_mask, (queries.shape[1], 0), value=1)
