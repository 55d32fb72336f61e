"""Room: recommender."""
