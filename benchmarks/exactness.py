"""The backbone beside a twin that may use all that append-exactness forbids, on one data set.

    python -m benchmarks.exactness --data PATH --case NAME --seeds 0,1,2 --json FILE

Both have the same blocks, loss, batches, time of the request and rule for stopping (NDCG@10 of the
validation part), and are measured on the same test part. The twin sees more, at the price that
every event and every request encodes the newest events again:

* each event is told its distance from the newest one, by a learned vector;
* each event is told how long it was until the next one, or until the request, in every layer.

What the backbone loses by being continued event by event is the lead of the twin, paired by target.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ouzel.cli.machine import record
from ouzel.cli.printing.output import emit
from ouzel.data.encode import encode
from ouzel.data.read import read
from ouzel.data.split import Split
from ouzel.evaluation.protocol import Report, evaluate
from ouzel.models.layers.attention import attend_window
from ouzel.models.sequence.esasrec import PRESETS, ESASRec, ESASRecConfig
from ouzel.recommender.cores import usable_threads
from ouzel.recommender.evaluate import split_of
from ouzel.recommender.options import TrainOptions
from ouzel.recommender.train import VALIDATION_TARGETS, dropout_for, settings_for
from ouzel.training.fit import FitResult, fit
from ouzel.training.validation import ndcg_validator, torch_scorer


class Twin(ESASRec):
    """ESASRec that encodes the newest `window` events anew, and so may look at their ends.

    Shape legend: B = batch, L = length, D = dim.
    """

    def __init__(self, config: ESASRecConfig, num_rows: int) -> None:
        super().__init__(config, num_rows)
        self.from_newest = nn.Embedding(config.window, config.dim)
        nn.init.normal_(self.from_newest.weight, std=0.02)

    def forward(self, rows_BL: Tensor, times_BL: Tensor, request_times_BL: Tensor) -> Tensor:
        """Return the user vector (B, L, D) after each event, asked at its request time."""
        positions = torch.arange(rows_BL.shape[1]).expand(rows_BL.shape)
        distance = ((rows_BL > 0).sum(1, keepdim=True) - 1 - positions).clamp(min=0)
        items = self.items(rows_BL) + self.from_newest(distance)
        items = items + self._elapsed(request_times_BL - times_BL)
        x, key, value, _, _ = self._read(items, times_BL, positions, window=None)
        cos, sin = (part.unsqueeze(-2) for part in self.rotary(positions, request_times_BL))
        return self._ask(
            x,
            request_times_BL - times_BL,
            (cos, sin),
            lambda query: attend_window(query, key, value, window=None),
        )

    def user_vectors(
        self, rows_BL: Tensor, times_BL: Tensor, length_B: Tensor, now_B: Tensor
    ) -> Tensor:
        """Return the user vectors (B, D) after all `length_B` events of padded histories."""
        requests_BL = torch.cat([times_BL[:, 1:], times_BL[:, -1:]], dim=1)
        newest_B1 = (length_B - 1).clamp(min=0).unsqueeze(1)
        requests_BL = requests_BL.scatter(1, newest_B1, now_B.unsqueeze(1))
        vectors = self(rows_BL, times_BL, requests_BL)
        return vectors[torch.arange(len(rows_BL)), newest_B1.squeeze(1)]

    def _elapsed(self, elapsed_ms: Tensor) -> Tensor:
        """Return what tells an event (..., D) the time until the next, as the request is told."""
        seconds = elapsed_ms.clamp(min=0).to(torch.float32) / 1000
        phase = torch.log1p(seconds).unsqueeze(-1) * self.harmonics
        told: Tensor = self.elapsed(torch.cat([phase.sin(), phase.cos()], dim=-1))
        return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--case", required=True, help="name of the data set")
    parser.add_argument("--minutes", type=float, help="train each for at most this long")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(usable_threads())
    interactions = encode(read(arguments.data).frame).interactions
    split = split_of(interactions, "leave-one-out")
    rows = []
    for seed in map(int, arguments.seeds.split(",")):
        options = TrainOptions(seed=seed, minutes=arguments.minutes)
        measured = [_measured(model, split, options) for model in (ESASRec, Twin)]
        lead = measured[1][0].against(measured[0][0])
        for report, result in measured:
            row = {"system": report.model, "case": arguments.case, **report.row(), "seed": seed}
            row |= {"epochs": result.epochs, "best_epoch": result.best_epoch}
            rows.append({**row, "seconds": round(result.seconds, 1)})
        rows[-1] |= {"ndcg@10_lead": lead.mean, "ndcg@10_lead_low": lead.low}
        rows[-1] |= {"ndcg@10_lead_high": lead.high}
    limit = f" --minutes {arguments.minutes:g}" if arguments.minutes else ""
    command = (
        f"python -m benchmarks.exactness --data DATA/{arguments.data.name} "
        f"--case {arguments.case}{limit} --seeds {arguments.seeds} --json FILE"
    )
    emit(record(rows, command=command, seed=0), arguments.json, title="Exact, and its twin")


def _measured(
    model_class: type[ESASRec], split: Split, options: TrainOptions
) -> tuple[Report, FitResult]:
    """Return what a model found of the test part, and how its training went."""
    config = replace(PRESETS["S"], dropout=dropout_for(split.train))
    torch.manual_seed(options.seed)
    model = model_class(config, split.full.num_rows)
    validate = ndcg_validator(
        model,
        split.full,
        split.validation,
        max_length=config.window,
        max_targets=VALIDATION_TARGETS,
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        result = fit(
            model,
            split.train,
            settings_for(split.train, options),
            max_length=config.window,
            validate=validate,
            directory=Path(folder),
            on_epoch=print,
        )
    exact = model_class is ESASRec
    length = config.receptive_field if exact else config.window
    name = "esasrec, append-exact" if exact else "its twin, encoded anew"
    scorer = torch_scorer(model, max_length=length)
    return evaluate(scorer, split.full, split.test, model=name, split="leave-one-out"), result


if __name__ == "__main__":
    main()
