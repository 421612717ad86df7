"""Train meta-parameters with a method, and judge the outcome; cost and error first."""

from __future__ import annotations

from metabench.core.kind import Kind
from metabench.kinds.cost import COST
from metabench.stages.quality import quality
from metabench.training.loop import TIME
from metabench.training.run import OUTER_LOSS

QUALITY = Kind(
    name="quality",
    title="cost and error of one hypergradient, then meta-training and the quality that it leads to",
    stages=(*COST.stages, quality),
    columns=(
        *COST.columns,
        "quality",
        "metrics",
        "metrics_answer",
        "outer_loss",
        "validation_loss",
        "meta_summary",
        "resumed",
        "train_s",
        "data_s",
        "curves",
        "pictures",
        "episode_cosine_trained",
        "episode_norm_ratio_trained",
    ),
    trains=True,
    partner=COST.name,
    curves={OUTER_LOSS: "the outer objective at the iterates", TIME: "seconds of training so far"},
    module=__name__,
    order=1,
)
