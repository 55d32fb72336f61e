"""The table of models, made from the code and the committed results.

python benchmarks/models.py        # registry, results/accuracy -> docs/models.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ouzel.inference.pool import slot_bytes
from ouzel.models.ctr import CTR_MODELS
from ouzel.models.ctr.base import CTRModel
from ouzel.models.protocols import SequenceEncoder
from ouzel.models.registry import MODELS, Model, family_of

ROOT = Path(__file__).parents[1]
PLOTS = ROOT / "benchmarks" / "plots"
NUM_ROWS = 3_707
"""Catalogue rows of ML-1M, for which parameters are counted."""

HEAD = """# Models

Made by `python benchmarks/models.py` from the code and from `benchmarks/results/accuracy/`.
`ouzel models` says what each costs and when to take it. States and parameters are those of preset S
(parameters with the item table of ML-1M, 3,706 items). A state is *append-exact* (an event costs
one row a layer), *recurrent* (one step) or *re-encoded* (the newest events anew); models without
one answer from the history of the request.

| model | family | state | bytes a user | parameters | paper |
|---|---|---|---|---|---|
"""

ACCURACY = """
## Accuracy

Leave-one-out: the last event of each user; temporal: the newest tenth of all events. All items are
ranked, seen items filtered. Figures are those of the defaults unless settings are named; seconds
are those of training, on the machine that the result file names.

| data | split | model | settings | recall@10 | NDCG@10 | coverage@10 | seconds | file |
|---|---|---|---|---|---|---|---|---|
"""

SPLITS = ("leave-one-out", "temporal")

RATINGS = """
## Ratings

How far predicted ratings are off those held out: the mean over folds, `given` with the data or
drawn. Users are folded in from the other ratings, as in service; `damped_means` knows no more than
how an item is rated and how a user rates. Seconds are those of training on one fold.

| data | folds | model | settings | RMSE | MAE | seconds | file |
|---|---|---|---|---|---|---|---|
"""


FIELDS = """
## Models of fields

They find nothing and order what another model has found: `ouzel train --ctr NAME`.

| model | family | paper |
|---|---|---|
"""

LIKES = """
Who likes what (`ouzel benchmark accuracy --split random`): ratings above the middle of the scale
against those below it, a tenth at random to test on. Settings other than the defaults are named;
`without` names fields that were left out. Epochs tell which trainings were cut short.

| data | model | settings | AUC | log loss | epochs | seconds | file |
|---|---|---|---|---|---|---|---|
"""

GIVEN = """
## Splits that came with the data

One list of 20 unseen items for each user, in which all that was held out is looked for; NDCG@20 as
the code of KGAT has it (`ouzel.evaluation.held_out`). Models without seconds are baselines.

| data | model | settings | recall@20 | NDCG@20 (KGAT) | coverage@20 | seconds | file |
|---|---|---|---|---|---|---|---|
"""


def page() -> str:
    """Return the whole of docs/models.md."""
    about = "".join(_line(_about(model)) for model in MODELS)
    fields = "".join(_line(_fields(model)) for model in CTR_MODELS)
    given = GIVEN + "".join(map(_line, given_splits()))
    accuracy = ACCURACY + "".join(map(_line, accuracies())) + _charts() + given + _rated()
    return HEAD + about + accuracy + FIELDS + fields + LIKES + "".join(map(_line, likes()))


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def _about(model: type[Model]) -> tuple[str, ...]:
    state, size, parameters = "none", "0", "-"
    if issubclass(model, SequenceEncoder):
        made = model.build("S", NUM_ROWS)
        state, size = made.state.kind, f"{slot_bytes(made.state):,}"
        parameters = f"{sum(weights.numel() for weights in made.parameters()):,}"
    return f"`{model.name}`", family_of(model), state, size, parameters, model.about.paper


def accuracies() -> Iterator[tuple[str, ...]]:
    """Yield a line for each trained model of each result file; of several seeds their mean."""
    ends = ("", " + ranker", " + blend")
    known = {f"{model.name}{end}" for model in MODELS for end in ends}
    for path in sorted((ROOT / "benchmarks/results/accuracy").glob("*.json")):
        rows = json.loads(path.read_text())["rows"]
        averaged = {
            (row["model"].split(" + ")[0], seed) for row in rows for seed in row.get("seeds", [])
        }
        for row in rows:
            if row.get("model") not in known or row.get("split") not in SPLITS:
                continue
            base = row["model"].split(" + ")[0]
            if "seconds" in row and ("seeds" in row or (base, row.get("seed")) not in averaged):
                yield _accuracy(row, path.name)


def _rated() -> str:
    lines = "".join(map(_line, ratings()))
    return RATINGS + lines if lines else ""


def ratings() -> Iterator[tuple[str, ...]]:
    """Yield a line for the mean over folds of each model of each result file."""
    for path in sorted((ROOT / "benchmarks/results/accuracy").glob("*.json")):
        for row in json.loads(path.read_text())["rows"]:
            if "rmse" in row and "folds" in row:
                folds = f"{row['folds']}, given" if row["split"] == "given" else str(row["folds"])
                seconds = f"{row['seconds']:,.0f}" if "seconds" in row else "-"
                figures = (f"{row['rmse']:.4f}", f"{row['mae']:.4f}", seconds, path.name)
                yield row["case"], folds, f"`{row['model']}`", _settings(row), *figures


def _settings(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in row.get("settings", {}).items())


def given_splits() -> Iterator[tuple[str, ...]]:
    """Yield a line for each row of a result file whose test part was given."""
    for path in sorted((ROOT / "benchmarks/results/accuracy").glob("*.json")):
        for row in json.loads(path.read_text())["rows"]:
            if row.get("split") == "given" and "recall@20" in row:
                yield _given(row, path.name)


def _given(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    figures = (f"{row[metric]:.4f}" for metric in ("recall@20", "ndcg@20_kgat", "coverage@20"))
    seconds = f"{row['seconds']:,.0f}" if "seconds" in row else "-"
    return row["case"], f"`{row['model']}`", _settings(row), *figures, seconds, name


def _accuracy(row: Mapping[str, Any], name: str) -> tuple[str, ...]:
    figures = (f"{row[metric]:.4f}" for metric in ("recall@10", "ndcg@10", "coverage@10"))
    named = (row["case"], row["split"], f"`{row['model']}`", _settings(row))
    return *named, *figures, f"{row['seconds']:,.0f}", name


def _charts() -> str:
    """Return the charts of what accuracy costs, and of learning (`python -m benchmarks.plots`)."""
    names = [
        path.stem for kind in ("costs", "learning") for path in sorted(PLOTS.glob(f"{kind}-*.svg"))
    ]
    return "".join(f"\n![{name}](../benchmarks/plots/{name}.svg)\n" for name in names)


def _fields(model: type[CTRModel]) -> tuple[str, ...]:
    return f"`{model.name}`", family_of(model), model.about.paper


def likes() -> Iterator[tuple[str, ...]]:
    """Yield a line for each row of a model of fields, the best of a result file first."""
    for path in sorted((ROOT / "benchmarks/results/accuracy").glob("*.json")):
        rows = [row for row in json.loads(path.read_text())["rows"] if "auc" in row]
        for row in sorted(rows, key=lambda row: -float(row["auc"])):
            figures = (f"{row[metric]:.4f}" for metric in ("auc", "logloss"))
            cost = str(row.get("epochs", "")), f"{row['seconds']:,.0f}"
            yield row["case"], f"`{row['model']}`", _settings(row), *figures, *cost, path.name


if __name__ == "__main__":
    (ROOT / "docs" / "models.md").write_text(page())
