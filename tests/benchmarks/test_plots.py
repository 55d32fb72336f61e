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
