"""A bias for each pair of events: of how many events, and of how much time, lie between them.

    bias(i, j) = place[i - j] + lapse[bucket(t_i - t_j)]
    bucket(t) = floor(ln(max(1, t in seconds)) / 0.3)

Both are counted between two events, so what was cached for one never changes.

References:
    Raffel et al., "Exploring the Limits of Transfer Learning" (T5), JMLR 2020, for buckets. Zhai et
    al., "Actions Speak Louder than Words" (HSTU), ICML 2024, for those of time.

Shape legend: W = window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NUM_BUCKETS = 72
"""Up to 70 years."""

BUCKET_LOG_SECONDS = 0.3


class RelativeBias(nn.Module):
    """A learned number for each distance in a window and for each bucket of elapsed time."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(window))
        self.lapse = nn.Parameter(torch.zeros(NUM_BUCKETS))
        nn.init.normal_(self.place, std=0.02)
        nn.init.normal_(self.lapse, std=0.02)

    def forward(self, distance: Tensor, buckets: Tensor) -> Tensor:
        """Return the bias of pairs `distance` events apart, in buckets of elapsed time."""
        places = distance.clamp(min=0, max=len(self.place) - 1)
        return self.place[places] + self.lapse[buckets]


def time_buckets(elapsed_ms: Tensor) -> Tensor:
    """Return the bucket of elapsed times in ms; what lies before now is in the first one.

    >>> time_buckets(torch.tensor([-5, 999, 2000, 86_400_000])).tolist()
    [0, 0, 2, 37]
    """
    seconds = elapsed_ms.clamp(min=1000).to(torch.float32) / 1000
    return (torch.log(seconds) / BUCKET_LOG_SECONDS).to(torch.int64).clamp(max=NUM_BUCKETS - 1)
