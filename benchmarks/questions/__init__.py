"""One module per question: its docstring is the question, and ``cases(device, quick)`` lists its comparisons."""

import importlib

QUESTIONS = (
    "graph_construction",
    "attention_forward",
    "attention_forward_backward",
    "graph_layer",
    "training_step",
    "frames",
    "shapes",
    "density",
    "inference",
    "overhead",
    "decoding",
    "edge_attention",
    "index",
    "shards",
    "compiled_step",
    "layers",
)


def module(question: str):
    """The module of a question. It is imported on demand, since those about the model need more than stgt_kernels."""
    return importlib.import_module(f"benchmarks.questions.{question}")
