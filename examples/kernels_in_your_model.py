"""Uses the kernels inside a model of your own: a small classifier of clips, trained for two steps.

Run it with `python examples/kernels_in_your_model.py`. It needs torch alone.
"""

import torch
from torch import Tensor, nn

from stgt_kernels import GraphAttention, spatio_temporal_graph
from stgt_kernels.testing import video_like_tokens


class ClipClassifier(nn.Module):
    """Patch tokens of a clip -> logits of classes."""

    def __init__(self, width: int, heads: int, classes: int, threshold: float = 0.5):
        super().__init__()
        self.threshold = threshold
        self.norm = nn.LayerNorm(width)
        self.attention = GraphAttention(width, heads)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, P, C), the tokens of T frames with P patches each. Returns (B, classes)."""
        # Two tokens share an edge if they are similar and at most one frame apart.
        graph = spatio_temporal_graph(x, threshold=self.threshold, window=1)
        # Attention takes the tokens of all frames in one dimension: (B, T*P, C).
        tokens = x.flatten(1, 2)
        tokens = tokens + self.attention(self.norm(tokens), graph)
        return self.head(tokens.mean(1))


def main() -> list[float]:
    """Trains for two steps and returns the loss of each."""
    torch.manual_seed(0)
    tokens = video_like_tokens(4, 8, 49, 64)  # their similarities are like those of real video
    labels = torch.tensor([0, 1, 2, 3])

    graph = spatio_temporal_graph(tokens, threshold=0.5, window=1)
    print(f"{graph}: {graph.density():.0%} of the pairs within the window are edges")

    model = ClipClassifier(width=64, heads=4, classes=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(2):
        loss = nn.functional.cross_entropy(model(tokens), labels)
        optimizer.zero_grad()
        loss.backward()  # the gradients of attention come from kernels as well
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step}: loss {loss.item():.3f}")
    return losses


if __name__ == "__main__":
    main()
