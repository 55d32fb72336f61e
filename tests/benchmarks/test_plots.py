"""Plots show what results say, whatever a label holds."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

from benchmarks import plots


def test_bars_are_as_long_as_their_values(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "ROOT", tmp_path)
    (tmp_path / "results" / "serving").mkdir(parents=True)
    rate = {"case": "100k", "p99_mark_ms": 50.0}
    rows = [
        {"system": "ouzel", "requests_per_s": 1200.0, **rate},
        {"system": "ouzel", "requests_per_s": 900.0, **rate, "p99_mark_ms": 10.0},
        {"system": "a <b> & c", "requests_per_s": 300.0, **rate},
        {"system": "a <b> & c (tuning)", "requests_per_s": 100.0, **rate},
    ]
    document = {"commit": "abc", "machine": {"cpu": "a cpu", "cores": 2.0}, "rows": rows}
    (tmp_path / "results" / "serving" / "one.json").write_text(json.dumps(document))
    plots.main()
    assert "serving-visible: no results" in capsys.readouterr().out
    tree = ElementTree.parse(tmp_path / "plots" / "serving-rate.svg")
    space = {"svg": "http://www.w3.org/2000/svg"}
    ours, theirs = tree.findall("svg:rect", space)
    assert float(ours.get("width")) == 4 * float(theirs.get("width"))
    assert ours.get("class") == "ours"
    texts = [node.text for node in tree.findall("svg:text", space)]
    assert "100k items · a <b> & c" in texts
    assert "1,200/s" in texts
    assert "a cpu, 2 cores, commit abc" in texts


def test_curves_and_costs_are_drawn_for_each_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "ROOT", tmp_path)
    (tmp_path / "results" / "accuracy").mkdir(parents=True)
    common = {"case": "shop", "split": "leave-one-out", "seed": 0, "settings": {}}
    slow = {"model": "esasrec", "ndcg@10": 0.2, "click_to_list_ms": 4.0, "state_bytes": 9000}
    fast = {"model": "ease", "ndcg@10": 0.1, "click_to_list_ms": 0.5, "state_bytes": 0}
    curve = [[2, 0.1], [4, 0.3], [6, 0.2]]
    rows = [{**common, **slow, "curve": curve}, {**common, **slow, "seed": 1}, {**common, **fast}]
    (tmp_path / "results" / "accuracy" / "shop.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "plots").mkdir()
    plots.write_charts(tmp_path / "plots")
    space = {"svg": "http://www.w3.org/2000/svg"}
    learning = ElementTree.parse(tmp_path / "plots" / "learning-shop.svg")
    (line,) = learning.findall("svg:polyline", space)
    heights = [float(point.split(",")[1]) for point in line.get("points").split()]
    assert heights[1] < heights[2] < heights[0], "the best epoch is drawn highest"
    costs = ElementTree.parse(tmp_path / "plots" / "costs-shop.svg")
    discs = costs.findall("svg:circle", space)
    lefts, tops, radii = ([float(disc.get(name)) for disc in discs] for name in ("cx", "cy", "r"))
    assert lefts[1] < lefts[0] and tops[1] > tops[0] and radii[1] < radii[0]
    names = [node.text for node in costs.findall("svg:text", space)]
    assert "esasrec, 9.0 kB" in names and "ease, 0.0 kB" in names


def test_the_best_tuning_of_a_peer_is_drawn_beside_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "ROOT", tmp_path)
    (tmp_path / "results" / "serving").mkdir(parents=True)
    (tmp_path / "plots").mkdir()
    found = [("ouzel", 100, 2.0), ("ouzel", 800, 9.0), ("peer", 100, 90.0), ("peer", 100, 20.0)]
    found += [("peer", 800, 5049.0)]  # it timed out
    rows = [
        {"system": system, "case": "1m", "rate": rate, "p99_ms": ms} for system, rate, ms in found
    ]
    document = {"commit": "abc", "machine": {"cpu": "a cpu", "cores": 2.0}, "rows": rows}
    (tmp_path / "results" / "serving" / "1m_peer_rates.json").write_text(json.dumps(document))
    assert [one.points for one in plots.latencies_of(document)] == [
        [(100, 2.0), (800, 9.0)],
        [(100, 20.0)],
    ]
    plots.write_latencies(tmp_path / "plots")
    tree = ElementTree.parse(tmp_path / "plots" / "1m_peer_rates.svg")
    (ours,) = tree.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(ours.get("points").split()) == 2
    assert len(tree.findall("{http://www.w3.org/2000/svg}circle")) == 1, "theirs, alone"
