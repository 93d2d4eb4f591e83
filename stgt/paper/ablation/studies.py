"""The ablations of the paper (Tables 2 and 3, Fig. 7) as studies, with the numbers that the paper reports."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from stgt.config import TrainConfig
from stgt.recipes import quickstart

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
GAMMAS = (1.0, 3.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Variant:
    """One row of a table: the differences from the base run."""

    title: str
    graph: dict[str, object] = field(default_factory=dict)
    """Fields of GraphConfig that differ"""
    gamma: float | None = None
    """CSAL with this γ replaces VTC in the last third of the epochs, as in the paper's 6 epochs after 12"""
    paper: float | None = None
    """The paper's R-mean: zero-shot text-to-video retrieval on MSRVTT, pre-trained on WebVid-10M"""

    def config(self, base: TrainConfig, seed: int) -> TrainConfig:
        """The configuration of the run. Its folder is below `base.out` and named after the settings that differ."""
        graph = replace(base.model.graph, **self.graph)
        if graph.kind == "graph":
            words = [f"h{graph.threshold:g}" if graph.edges else "band"]
            words += ([] if graph.weights else ["unweighted"]) + ([] if graph.motion else ["still"])
            words += ["released"] if graph.form == "released" else []
        else:
            words = [graph.kind]
        csal = {}
        if self.gamma is not None:
            words.append(f"csal{self.gamma:g}")
            csal = dict(loss=replace(base.loss, alignment="csal", gamma=self.gamma), vtc_epochs=base.epochs * 2 // 3)
        out = base.out / "-".join(words) / f"seed{seed}"
        return replace(base, model=replace(base.model, graph=graph), seed=seed, out=out, **csal)


@dataclass(frozen=True)
class Study:
    """Variants that are compared with each other."""

    title: str
    variants: tuple[Variant, ...]
    axis: str | None = None
    """The label of the horizontal axis of a curve; None if the rows have no order"""
    values: tuple[float, ...] = ()
    """The values on that axis: one for each variant, or the thresholds with which each variant is tested"""
    tested: bool = False
    """Whether `values` are thresholds with which each variant is tested"""


BASELINE = Variant("CCT+MIT baseline", {"kind": "cross_frame"}, paper=45.57)
GRAPH = Variant("A and W_s", paper=49.67)
STILL = Variant("A and W_s, without motion along the edges", {"motion": False})
RELEASED = Variant("A and W_s, the released form", {"form": "released", "motion": False}, paper=49.67)
CSAL = Variant("A and W_s, CSAL", gamma=5.0, paper=51.27)

STUDIES: dict[str, tuple[Study, ...]] = {
    "table2": (
        Study(
            "Table 2: graph A, weights W_s, CSAL",
            (
                BASELINE,
                Variant("W_s without A: every pair of the band", {"edges": False}),
                Variant("A without W_s: every edge weighs 1", {"weights": False}, paper=48.86),
                GRAPH,
                STILL,
                RELEASED,
                CSAL,
            ),
        ),
    ),
    "forms": (Study("The forms of the graph layer", (BASELINE, RELEASED, STILL, GRAPH)),),
    "table3": (
        Study(
            "Table 3: CSAL, with the graph and with the baseline",
            (BASELINE, Variant("CCT+MIT baseline, CSAL", {"kind": "cross_frame"}, gamma=5.0), GRAPH, CSAL),
        ),
    ),
    "fig7": (
        Study(
            "Fig. 7: threshold h in training and in the test",
            tuple(Variant(f"trained at h = {h:g}", {"threshold": h}) for h in THRESHOLDS),
            axis="h in the test",
            values=THRESHOLDS,
            tested=True,
        ),
        Study(
            "Fig. 7: γ of CSAL",
            tuple(Variant(f"γ = {gamma:g}", gamma=gamma) for gamma in GAMMAS),
            axis="γ",
            values=GAMMAS,
        ),
    ),
}


def base_run(clips: Path, epochs: int, out: Path, device: str, *, full: bool = False) -> TrainConfig:
    """The quickstart's run. Unless `full`, it is a third of the work: fewer patches, and half the Q-Former's width."""
    run = quickstart()
    small = replace(
        run.model,
        vision=replace(run.model.vision, patch_size=16),
        qformer=replace(run.model.qformer, hidden=64, intermediate=256),
    )
    return replace(
        run,
        model=run.model if full else small,
        data=replace(run.data, train=clips / "train.json", test=clips / "test.json", videos=clips / "videos"),
        epochs=epochs,
        out=out,
        device=device,
        keep=1,
    )
