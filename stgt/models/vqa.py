"""Video question answering: a language model reads the projected queries of the Q-Former before the question."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgt import gather
from stgt.config import LossConfig, ModelConfig
from stgt.data.words import labelled_places
from stgt.models.encoder import VideoEncoder
from stgt.models.language import load_language_model
from stgt.models.qformer import QFormer
from stgt.models.rows import select_places

LONGEST_ANSWER = 10
"""The default number of tokens that an answer has at most, which is that of BLIP-2"""


class VideoQA(VideoEncoder):
    """STGT's video encoder and Q-Former, followed by a linear projection to the words of a causal language model.

    Training changes `ln_vision`, the queries, the Q-Former, the projection, and the parts that `config.language`
    selects. Frozen parts stay in evaluation mode. Parts have the same names as in `STGT`.
    """

    def __init__(self, config: ModelConfig, tower: bool = True) -> None:
        super().__init__(config, tower)
        if config.language is None:
            raise ValueError("ModelConfig.language is None, expected the language model that answers")
        self.qformer = QFormer(config.qformer, config.vision.sizes.width, text=False)
        self.language = load_language_model(config.language)
        self.language_proj = nn.Linear(config.qformer.hidden, self.language.get_input_embeddings().embedding_dim)
        self.graph.requires_grad_(config.language.train_graph)
        self.train(self.training)

    def train(self, mode: bool = True) -> VideoQA:
        """Sets the mode of the trained parts. Frozen parts stay in evaluation mode."""
        super().train(mode)
        self.graph.train(mode and self.config.language.train_graph)
        self.language.train(mode and self.config.language.tune != "frozen")
        return self

    def encode_video(self, video: Tensor | None = None, *, tokens: Tensor | None = None) -> tuple[Tensor, dict]:
        """The language model's input for videos (B, T, 3, S, S), or for the tower's tokens (B, T, 1+P, C).

        Returns (B, Q, E), where E is the width of the language model's word embeddings, and statistics as scalars.
        """
        embeds, stats = self._embed(video, tokens)
        return self.language_proj(self.qformer.video(embeds)), stats

    def forward(self, batch: dict[str, Tensor], loss: LossConfig | None = None) -> dict[str, Tensor]:
        """Next-word loss on the answers, averaged over the answer tokens of all processes.

        batch: video (n, T, 3, S, S) or tokens (n, T, 1+P, C); input_ids, attention_mask, labels (n, L) as
        `LanguageTokenizer.collate` makes them, and predicted, which is computed here if it is missing. The trainer
        passes `loss` to every model; it is not used here. Returns scalars: "loss", "words_right" (the share of answer
        tokens that have the largest logit), and statistics.
        """
        queries, stats = self.encode_video(batch.get("video"), tokens=batch.get("tokens"))
        ids, labels = batch["input_ids"], batch["labels"]
        if len(ids) != len(queries):
            raise ValueError(f"input_ids has {len(ids)} prompts for {len(queries)} videos, expected one each")
        embeds, mask = self._read(queries, ids, batch["attention_mask"])
        logits = self.language(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
        # The last query predicts the first token of the text, so entry i of `predictions` predicts token i.
        predictions = logits[:, queries.shape[1] - 1 : -1]
        places = batch["predicted"] if "predicted" in batch else labelled_places(labels)
        predicted, wanted = select_places(predictions, places).float(), select_places(labels, places)
        words = gather.mean(torch.full((), float(len(wanted)), device=wanted.device))
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
        max_tokens: int = LONGEST_ANSWER,
        length_penalty: float = 0.0,
    ) -> Tensor:
        """Answers by beam search. With one beam the search is greedy.

        queries: (B, Q, E) from `encode_video`; input_ids, attention_mask: prompts (B, L), padded anywhere; end: the
        token that ends an answer. The defaults are those of BLIP-2's question answering. Returns token ids (B, at most
        max_tokens), filled up with `end`. An answer does not depend on the other prompts of the batch.
        """
        from transformers import GenerationConfig

        embeds, mask = self._read(queries, input_ids, attention_mask, room=max_tokens)
        # All padding is moved to the left, so prompts end together, and positions count from the first query.
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
        # The processes of a run answer other questions, so none may wait for the others' tokens.
        alone = {"generation_config": decoding, "synced_gpus": False}
        return self.language.generate(inputs_embeds=embeds, attention_mask=mask, **alone)

    def _read(self, queries: Tensor, input_ids: Tensor, attention_mask: Tensor, room: int = 0) -> tuple[Tensor, Tensor]:
        """Embeddings (B, Q+L, E) of the queries and then the text, in the language model's dtype, and their mask."""
        length = queries.shape[1] + input_ids.shape[1] + room
        most = getattr(self.language.config, "max_position_embeddings", length)
        if length > most:
            parts = f"{queries.shape[1]} queries, {input_ids.shape[1]} tokens of text and {room} tokens of an answer"
            raise ValueError(f"{parts} are {length} positions, expected at most the language model's {most}")
        words = self.language.get_input_embeddings()(input_ids)
        embeds = torch.cat([queries.to(words.dtype), words], 1)
        return embeds, F.pad(attention_mask, (queries.shape[1], 0), value=1)
