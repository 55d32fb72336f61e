"""Finds candidates: the exact index, popular lists and session neighbours, all behind one type."""
