"""The façade: fit, recommend, evaluate, save, load; and the home that a recommender lives in."""
