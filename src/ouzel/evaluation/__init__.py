"""Measures: accuracy of any scorer over the full catalogue, and a server under open-loop load."""
