"""All settings of a model, its losses and a run, as dataclasses that refuse values which make no sense."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from stgt import fields
from stgt.data_config import DataConfig
from stgt.fields import COUNT, DEEPEST, LONGEST, WIDEST, WORDS, require, require_counts, require_range, require_types
from stgt.old_config import translated_model, translated_run
from stgt.vision_config import VisionConfig

PARAMETERS = 10**11  # the most for one part of the model

K_TEST = 32
"""The default number of candidates that the matching head re-ranks, as in the paper"""
Precision = Literal["fp32", "bf16", "fp16"]
Rerank = Literal["softmax", "logit", "odds"]
"""The score that re-ranking adds to a pair's similarity, see `stgt.evaluation.retrieval.matching_scores`"""


@dataclass
class GraphConfig:
    """The part that joins the frames: the graph transformer, X-CLIP's cross-frame baseline, or nothing."""

    kind: Literal["graph", "none", "cross_frame"] = "graph"
    """"graph": the graph transformer; "cross_frame": the paper's baseline of X-CLIP; "none": frames are not joined"""
    form: Literal["released", "residual"] = "released"
    """"released": a linear map changes the patches, and graph attention replaces them (released model and paper);
    "residual": the result of graph attention is added to the patches"""
    motion: bool = False
    """Whether each patch also gets the velocity and the growth of the patches that its edges lead to"""
    layers: int = 1
    """Number of layers of this part"""
    heads: int = 16
    """Number of attention heads; each of them has at most 128 channels"""
    frames: int = 8
    """Number of temporal embeddings that are learned; clips of another length use the nearest ones"""
    threshold: float = 0.5
    """An edge joins two tokens whose cosine similarity is at least this"""
    window: int = 1
    """An edge joins tokens at most this many frames apart"""
    dropout: float = 0.1
    """Dropout rate of the weights of graph attention"""
    drop_path: float = 0.0
    """Drop-path rate of the last block; the rate grows linearly from the first block to the last"""
    cls_repeats: int = 2
    """Number of times that the one [CLS] block is applied: 2 in the released model, 1 in the paper"""
    scope: Literal["frame", "clip"] = "frame"
    """The tokens that a token of the residual block attends to: its frame (released model) or the whole clip (paper)"""
    differentiable: bool = False
    """Whether gradients flow through the edge weights"""
    edges: bool = True
    """False keeps every pair of tokens within the window, with its similarity as weight (ablation)"""
    weights: bool = True
    """False gives every edge the weight 1 (ablation)"""
    pos2d: Literal["sincos", "random", "load"] = "sincos"
    """Spatial embedding: sine/cosine, a frozen random draw (released model), or zeros until a checkpoint is loaded"""
    attention: Annotated[Literal["kernels", "dense"], tyro.conf.arg(aliases=("--attention",))] = "kernels"
    """The fused kernels, or dense matrices as in the released model, for comparison"""
    backend: Literal["auto", "reference", "cpu", "triton", "cuda"] = "auto"
    """The implementation of the kernels; "auto" is the fastest one that can run"""
    checkpointing: bool = False
    """Whether each block's activations are computed again in the backward pass, which saves memory"""

    def __post_init__(self) -> None:
        require_types(self)
        require_counts(self, layers=DEEPEST, heads=WIDEST, frames=LONGEST, cls_repeats=DEEPEST)
        require_range(self, -1.0, 1.0, "threshold")
        require(self, "window", self.window >= 0, "at least 0")
        for name in ("dropout", "drop_path"):
            require(self, name, 0.0 <= getattr(self, name) < 1.0, "a number in [0, 1)")


@dataclass
class QFormerConfig:
    """The Q-Former (BERT-base with cross-attention), its text side and the heads on it."""

    hidden: int = 768
    """Width of the tokens"""
    layers: int = 12
    """Number of layers"""
    heads: int = 12
    """Number of attention heads; it divides the width"""
    intermediate: int = 3072
    """Width of the hidden layer of the MLPs"""
    queries: int = 32
    """Number of learned queries, which is the number of vectors of a video"""
    cross_frequency: int = 2
    """Layers 0, n, 2n, … have a cross-attention to the video tokens, where n is this number"""
    vocab_size: int = 30523
    """Number of tokens of the vocabulary; training sets it to that of the tokenizer"""
    bos_token_id: int = 30522
    """Id of the token from which a caption is written; training sets it to that of the tokenizer"""
    pad_token_id: int = 0
    """Id of the token that fills up short texts; training sets it to that of the tokenizer"""
    max_positions: int = 512
    """Number of positions in a text that have an embedding"""
    dropout: float = 0.1
    """Dropout rate"""
    embed_dim: int = 256
    """Width of the vectors by which videos and texts are compared"""
    max_text_length: int = 32
    """Largest number of tokens of a text; a longer one is cut off"""
    temperature: float = 0.07
    """Initial value of the learned temperature that similarities are divided by"""
    rerank: Rerank = "softmax"
    """The matching score that re-ranking adds to the similarity: the probability (released model), the raw logit
    (LAVIS), or the log-odds times the temperature, which are in the similarity's own unit"""

    def __post_init__(self) -> None:
        require_types(self)
        require_counts(self, hidden=WIDEST, layers=DEEPEST, heads=WIDEST, intermediate=WIDEST * 8, queries=LONGEST)
        require_counts(self, cross_frequency=DEEPEST, vocab_size=WORDS, max_positions=WORDS, embed_dim=WIDEST)
        require_range(self, 2, LONGEST, "max_text_length")  # for [CLS] and [SEP]
        require(self, "hidden", self.hidden % self.heads == 0, f"a multiple of heads={self.heads}")
        for name in ("bos_token_id", "pad_token_id"):
            require(self, name, 0 <= getattr(self, name) < self.vocab_size, f"0 to vocab_size-1={self.vocab_size - 1}")
        require(self, "dropout", 0.0 <= self.dropout < 1.0, "a number in [0, 1)")
        require(self, "temperature", 0.0 < self.temperature < math.inf, "a positive number")
        fits = self.max_text_length <= self.max_positions
        require(self, "max_text_length", fits, f"at most max_positions={self.max_positions}")


@dataclass
class LanguageConfig:
    """The causal language model that answers questions from the Q-Former's queries, and its training."""

    model: str = "facebook/opt-2.7b"
    """A causal language model of the Hugging Face hub, a folder that `save_pretrained` wrote, or "opt": a small
    untrained model of the sizes below, whose tokenizer is fitted to the training questions"""
    tune: Literal["frozen", "lora", "all"] = "frozen"
    """The part of the language model that is trained: nothing, LoRA's matrices beside its linear maps, or all of it"""
    lora_rank: int = 16
    """Rank of LoRA's matrices, with `tune="lora"`"""
    train_graph: bool = False
    """Whether the graph transformer is trained as well; the paper keeps its pre-trained weights"""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """The dtype of the language model's weights"""
    hidden: int = 128
    """Width of "opt"; the fields below are its other sizes"""
    layers: int = 2
    """Number of layers of "opt\""""
    heads: int = 4
    """Number of attention heads of "opt"; it divides the width"""
    vocab_size: int = 512
    """Number of tokens of "opt"; training sets it to that of its tokenizer, see `data.tokenizer_size`"""
    max_positions: int = 256
    """Number of positions of "opt", for the queries, the question and the answer together"""

    def __post_init__(self) -> None:
        require_types(self)
        require(self, "model", bool(self.model), "a model's name or folder, or 'opt'")
        require_counts(self, lora_rank=WIDEST, hidden=WIDEST, layers=DEEPEST, heads=WIDEST, vocab_size=WORDS)
        require_counts(self, max_positions=WORDS)
        require(self, "hidden", self.hidden % self.heads == 0, f"a multiple of heads={self.heads}")
        require(self, "dtype", self.tune != "all" or self.dtype == "float32", "'float32', since tune='all' trains it")


@dataclass
class LossConfig:
    """The loss, Eq. 16-21: an alignment of videos with texts, VTC or CSAL, plus VTM and VTG."""

    alignment: Literal["vtc", "csal"] = "vtc"
    """The contrastive loss: VTC (the paper's first stage), or CSAL with its soft targets (the second stage)"""
    gamma: float = 5.0
    """Sharpness of CSAL's soft targets"""
    vtc_smoothing: float = 0.1
    """Label smoothing of VTC"""
    csal_smoothing: float = 0.01
    """Label smoothing of CSAL"""
    vtg_smoothing: float = 0.1
    """Label smoothing of VTG"""
    detach_target: bool = False
    """Whether CSAL's targets are constants; in the released model gradients pass through them"""
    csal_mask: Literal["release", "paper"] = "release"
    """Pairs that cannot be a target: product below 0.05 (released model), or both similarities at most 0 (paper)"""
    multi_positive: bool = False
    """Whether two pairs of a batch with the same video, or with the same text word for word, count as right for each
    other and never as negatives, as in BLIP-2's retrieval training; in the released model they are negatives"""
    gather_gradients: bool = True
    """Whether gradients reach the features of other processes, which makes the loss over the global batch exact"""
    chunk: int | None = None
    """Number of pairs of a process whose activations are held at a time; the loss is still that of the whole batch,
    whose parts are computed once more in the backward pass. None holds those of all pairs"""
    alignment_weight: float = 1.0
    """Weight of VTC or CSAL"""
    vtm_weight: float = 1.0
    """Weight of VTM; with 0, the matching head is not trained"""
    vtg_weight: float = 1.0
    """Weight of VTG; with 0, the generation head is not trained"""

    def __post_init__(self) -> None:
        require_types(self)
        require(self, "chunk", self.chunk is None or self.chunk >= 1, "at least 1, or None")
        require(self, "gamma", 0.0 < self.gamma < math.inf, "a positive number")
        for name in ("vtc_smoothing", "csal_smoothing", "vtg_smoothing"):
            require(self, name, 0.0 <= getattr(self, name) < 1.0, "a number in [0, 1)")
        weights = ("alignment_weight", "vtm_weight", "vtg_weight")
        for name in weights:
            require(self, name, 0.0 <= getattr(self, name) < math.inf, "a number of at least 0")
        positive = any(getattr(self, name) > 0 for name in weights)
        require(self, weights[0], positive, f"a positive number for at least one of {', '.join(weights)}")


@dataclass
class ModelConfig:
    """The whole model. With a language model it answers questions, and without one it is for retrieval."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    language: Annotated[LanguageConfig | None, tyro.conf.AvoidSubcommands] = None

    def __post_init__(self) -> None:
        require_types(self)
        width = self.vision.sizes.width
        require(self.graph, "heads", width % self.graph.heads == 0, f"a divisor of VisionConfig.width={width}")
        fits = self.graph.attention == "dense" or width // self.graph.heads <= 128
        require(self.graph, "heads", fits, f"enough of VisionConfig.width={width} for at most 128 channels each")
        require(self.vision, "width", width % 4 == 0, "a multiple of 4, which the 2-D sine/cosine embedding needs")
        for part, count in self._parameters().items():
            fits = count <= PARAMETERS
            require(self, part, fits, f"at most {PARAMETERS:.0e} weights, but these sizes give about {count:.1e}")

    def _parameters(self) -> dict[str, float]:
        """The approximate number of weights of each part: the matrices of its blocks, and its tables."""
        v, g, q, language = self.vision.sizes, self.graph, self.qformer, self.language
        layers, tables = q.layers * (8 * q.hidden + 4 * q.intermediate), q.vocab_size + q.max_positions + q.queries
        counts = {
            "vision": (v.layers * (4 + 2 * v.mlp_ratio) * v.width + 3 * v.patch_size**2 + v.grid**2) * v.width,
            "graph": (25 * g.layers * v.width + g.frames + v.grid**2) * v.width,
            "qformer": (layers + tables) * q.hidden,
        }
        if language is not None:
            tables = language.vocab_size + language.max_positions
            counts["language"] = (12 * language.layers * language.hidden + tables) * language.hidden
        return counts


@dataclass
class OptimConfig:
    """AdamW, whose learning rate warms up linearly and then follows a cosine."""

    lr: float = 5e-5
    """Largest learning rate, at the end of the warm-up"""
    min_lr: float = 1e-6
    """Learning rate at the end of the run"""
    warmup_steps: int = 500
    """Number of steps in which the learning rate grows"""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's factors of decay for the two moments"""
    weight_decay: float = 0.05
    """Weight decay of tensors with two or more dimensions; other tensors do not decay"""
    clip_norm: float | None = 1.0
    """Largest norm of the whole gradient; None does not clip it"""
    accumulate: int = 1
    """Number of batches whose gradients are averaged into one step"""

    def __post_init__(self) -> None:
        require_types(self)
        require(self, "lr", 0.0 < self.lr < math.inf, "a positive number")
        require_range(self, 0.0, self.lr, "min_lr")
        require(self, "warmup_steps", self.warmup_steps >= 0, "at least 0")
        require(self, "betas", all(0.0 <= beta < 1.0 for beta in self.betas), "two numbers in [0, 1)")
        require(self, "weight_decay", 0.0 <= self.weight_decay < math.inf, "a number of at least 0")
        clips = self.clip_norm is None or 0.0 < self.clip_norm < math.inf
        require(self, "clip_norm", clips, "a positive number, or None")
        require_counts(self, accumulate=COUNT)


@dataclass
class TrainConfig:
    """One run: everything that decides its result, and the folder for it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    out: Path = Path("runs/stgt")
    """Folder of the run; a run that was stopped goes on from the last checkpoint in it"""
    init: Path | None = None
    """Weights to start from: the folder of another run, a folder that `stgt convert` wrote, or a released checkpoint"""
    epochs: int = 10
    """Number of passes over the training pairs"""
    vtc_epochs: int = 0
    """Number of epochs at the start that train with VTC before those with CSAL (`loss.alignment="csal"`)"""
    batch_size: int = 20
    """Number of pairs in a batch of one process; with `global_batch`, only validation uses it"""
    global_batch: int | None = None
    """Number of pairs in a batch of all processes together, whose number may then change when the run goes on"""
    precision: Precision = "bf16"
    """The dtype of the computation, by autocast; weights stay in float32. fp16 also scales the loss"""
    compile: bool = False
    """Whether `torch.compile` compiles the model"""
    sharded: bool = False
    """Whether weights, gradients and the optimizer's state are shared out among the processes (FSDP2), so that each
    holds only its share; results change by rounding alone, and nothing changes in a single process"""
    deterministic: bool = True
    """Whether training uses torch's deterministic algorithms; without them the same command may give other bits"""
    seed: int = 0
    """Seed of the initial weights, the order of the pairs, the augmentation and the dropout"""
    device: str = "auto"
    """Any of torch's device names, or "auto", which is a GPU where there is one"""
    log_every: int = 10
    """Number of steps between two records of the log"""
    log_to: Literal["tensorboard", "wandb", "trackio"] = "tensorboard"
    """The program that shows curves, beside log.jsonl: TensorBoard, or a service whose package is installed"""
    save_every: int = 500
    """Number of steps between checkpoints; there is always one after the last step"""
    keep: int = 2
    """Number of newest checkpoints that are kept"""
    accept_changed_data: bool = False
    """Whether a run goes on if annotations, videos or the decoder have changed since it or its cache began"""

    def __post_init__(self) -> None:
        require_types(self)
        require_counts(self, epochs=COUNT, batch_size=COUNT, log_every=COUNT, save_every=COUNT, keep=COUNT)
        require(self, "global_batch", self.global_batch is None or self.global_batch >= 1, "at least 1, or None")
        require(self, "compile", not (self.compile and self.sharded), "False with sharded=True")
        require(self, "seed", 0 <= self.seed < 2**63, "at least 0 and below 2**63")
        require(self.loss, "chunk", self.loss.chunk is None or not self.compile, "None with compile=True")
        answers = self.model.language is not None
        require(self.loss, "chunk", not (self.loss.chunk and answers), "None for questions: use optim.accumulate")
        require(self, "vtc_epochs", self.vtc_epochs >= 0, "at least 0")
        needed = self.vtc_epochs == 0 or self.loss.alignment == "csal"
        require(self, "vtc_epochs", needed, "0, since loss.alignment='vtc' trains with VTC in every epoch")


# Fields that may have another value when a run goes on, because they do not change its numbers. The trainer itself
# compares the size of the whole batch, so a run that began without `global_batch` may go on with it. The contents of
# the bad list are compared with the rest of the data.
_FREE = (
    "out",
    "global_batch",
    "sharded",
    "data.workers",
    "data.cache",
    "data.check_contents",
    "data.test",
    "data.bad_list",
    "data.max_pixels",
    "data.deadline",
    "log_every",
    "log_to",
    "save_every",
    "keep",
    "accept_changed_data",
)


def from_dict(cls: type, values: object) -> object:
    """A configuration made of JSON values, also of version 0.1.0. Raises ValueError as `fields.from_dict` does."""
    translated = {TrainConfig: translated_run, ModelConfig: translated_model}.get(cls)
    return fields.from_dict(cls, translated(values) if translated and isinstance(values, dict) else values)


def to_dict(config: ModelConfig | TrainConfig) -> dict:
    """A configuration as nested dicts of JSON values, with all sizes of the vision tower filled in."""
    values = json.loads(json.dumps(asdict(config), default=str))
    model, part = (config.model, values["model"]) if isinstance(config, TrainConfig) else (config, values)
    part["vision"] |= asdict(model.vision.sizes)
    return values


def differences(ours: dict, theirs: dict, prefix: str = "") -> list[str]:
    """The fields outside _FREE that differ between two results of `to_dict`, as "name: ours, there theirs"."""
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        name, a, b = prefix + key, ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, name + ".")
        elif a != b and name not in _FREE:
            found.append(f"{name}: {repr(a)[:80]}, there {repr(b)[:80]}")
    return found
