"""The twin of the backbone sees what the backbone may not, in training as when it is asked."""

from __future__ import annotations

import torch

from benchmarks.exactness import Twin
from ouzel.models.sequence.esasrec import ESASRec, ESASRecConfig

CONFIG = ESASRecConfig(dim=8, num_layers=2, num_heads=2, window=6)
ROWS = torch.tensor([[3, 1, 4, 0], [2, 5, 1, 3]])
TIMES = torch.tensor([[10, 2_000, 50_000, 0], [5, 70_000, 90_000, 400_000]])
LENGTH = torch.tensor([3, 4])
NOW = torch.tensor([900_000, 9_000_000])


def made(model_class):
    torch.manual_seed(0)
    return model_class(CONFIG, num_rows=7).eval()


def test_a_padded_batch_is_asked_as_each_of_its_histories_alone():
    twin = made(Twin)
    together = twin.user_vectors(ROWS, TIMES, LENGTH, NOW)
    for user, length in enumerate(LENGTH.tolist()):
        rows, times = ROWS[user : user + 1, :length], TIMES[user : user + 1, :length]
        requests = torch.cat([times[:, 1:], NOW[user].view(1, 1)], dim=1)
        alone = twin(rows, times, requests)[:, -1]
        assert torch.allclose(together[user], alone[0], atol=1e-5)


def test_an_earlier_answer_of_the_twin_changes_with_what_follows_and_the_backbones_does_not():
    requests = torch.cat([TIMES[:, 1:], NOW.unsqueeze(1)], dim=1)
    for model_class, same in ((ESASRec, True), (Twin, False)):
        model = made(model_class)
        before = model(ROWS[1:, :3], TIMES[1:, :3], requests[1:, :3])
        after = model(ROWS[1:], TIMES[1:], requests[1:])[:, :3]
        assert torch.allclose(before, after, atol=1e-5) is same
