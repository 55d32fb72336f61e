"""Whether a blend of a model with the other sources is served: learned and judged on validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ouzel.data.split import Split
from ouzel.evaluation.blended import blended_scorer, parts_with
from ouzel.evaluation.protocol import Scorer
from ouzel.evaluation.sample import mean_ndcg, sampled
from ouzel.ranking.blending import Blender
from ouzel.recommender.options import Progress, TrainOptions
from ouzel.recommender.publish import Provenance
from ouzel.training.blending import fit_blender

TARGETS = 4000
"""Validation targets that are learned from, half of them first, to judge by the other half."""

WORTHWHILE = 1.01
"""How many times the model's NDCG@10 pays for three more lists in every answer."""


def learned_blend(scorer: Scorer, split: Split, *, seed: int, progress: Progress) -> Blender | None:
    """Return the blender of a model with the other sources; None: the model alone is as good.

    It is fitted on half of the validation targets and must put the other half higher than the
    model does, `WORTHWHILE` times; then it is fitted on all.

    >>> import numpy as np
    >>> from ouzel.data.split import leave_one_out
    >>> from ouzel.events.interactions import History, from_histories
    >>> from ouzel.recommender.options import Silent
    >>> visit = History(np.array([1, 2], np.int32), np.arange(2))
    >>> split = leave_one_out(from_histories([visit], num_rows=3))
    >>> learned_blend(lambda histories, now_ms: None, split, seed=0, progress=Silent()) is None
    True
    """
    targets = split.validation
    if len(targets.ends_T) < 2:
        progress.say("Nothing to learn a blend from: no user has events in the validation part")
        return None
    sample = sampled(targets, TARGETS, seed=seed)
    fitted, judged = sample.half(0), sample.half(1)
    parts = parts_with(scorer, split.train)
    weights_2SF = fit_blender(parts, split.full, fitted)
    if weights_2SF is None:
        progress.say("Nothing to learn a blend from: no source proposes what users did next")
        return None
    blender = Blender(weights_2SF)
    alone, both = (
        mean_ndcg(each, split.full, judged) for each in (scorer, blended_scorer(parts, blender))
    )
    figures = f"NDCG@10 {both:.4f} on half of the validation targets, the model alone {alone:.4f}"
    if not both > alone * WORTHWHILE:
        progress.say(f"The blend is not better and is left out: {figures}")
        return None
    progress.say(f"The blend is better and is served: {figures}")
    weights_2SF = fit_blender(parts, split.full, sample)
    return blender if weights_2SF is None else Blender(weights_2SF)


def blended(
    provenance: Provenance,
    scorers: Mapping[str, Scorer],
    split: Split,
    options: TrainOptions,
    progress: Progress,
) -> Provenance:
    """Return what a manifest is told: with a blend of the first of `scorers`, if `options` want one
    and it is better.

    >>> blended("as it was", {}, None, TrainOptions(blend=False), None)
    'as it was'
    """
    if not options.blends:
        return provenance
    scorer = next(iter(scorers.values()))
    blender = learned_blend(scorer, split, seed=options.seed, progress=progress)
    if blender is None:
        return provenance
    features = {**provenance.features, "blend": blender.to_manifest()}
    return replace(provenance, features=features)
