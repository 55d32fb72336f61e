"""The peer is honest: its short cuts change nothing, and it sees every click at once."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.peers.fastapi_torch import encoder, histories


def vectors(num_rows=60):
    return torch.from_numpy(
        np.random.default_rng(0).standard_normal((num_rows, 64)).astype(np.float32)
    )


def test_computing_one_position_gives_what_computing_all_gives():
    model = encoder.Encoder(vectors()).eval()
    rows = torch.randint(1, 60, (3, 20))
    with torch.inference_mode():
        short = model(rows)
        x = model.items(rows) + model.positions[:20]
        for block in model.blocks:
            x = block(x, last_only=False)
        full = model.norm(x[:, -1])
    assert torch.allclose(short, full, atol=1e-5)


def test_a_batch_gives_what_singles_give_and_nothing_seen():
    peer = encoder.Recommender(vectors())
    lists = [torch.randint(1, 60, (30,)) for _ in range(4)]
    together, scores = peer.top(lists, 5)
    for history, rows, values in zip(lists, together, scores, strict=True):
        alone_rows, alone_values = peer.top([history], 5)
        assert rows == alone_rows[0]
        assert np.allclose(values, alone_values[0], atol=1e-4)
        assert not set(rows) & set(history.tolist())
        assert 0 not in rows


def test_workers_share_histories(tmp_path):
    start = np.arange(1, 13, dtype=np.int32).reshape(3, 4)
    np.save(tmp_path / "histories.npy", start)
    one = histories.Histories(tmp_path, spare=2)
    other = histories.Histories(tmp_path, spare=2)
    user = other.row_of["u1"]
    one.append(user, 40)
    assert other.rows(user).tolist() == [5, 6, 7, 8, 40]
    other.append(user, 41)
    other.append(user, 42)  # past the capacity: the newest 4 are kept, then the event
    assert one.rows(user).tolist() == [7, 8, 40, 41, 42]
    assert one.rows(0).tolist() == [1, 2, 3, 4]
    one.close()
    other.close()
