"""`ouzel benchmark TOPIC`: one file per topic in `benchmarking`, loaded only when asked for."""

from __future__ import annotations

TOPICS = {
    "serving": "Requests per second that are answered in time, and how soon a click shows.",
    "states": "What one event costs a user's state, against encoding the history anew.",
    "accuracy": "What models find on a data set, beside every baseline.",
    "training": "How fast models are fitted and follow a stream, beside other libraries.",
}
"""Every topic and its line in `ouzel benchmark --help`."""

ROOM = "ouzel.cli.benchmarking"
"""Where the topics are."""
