"""Room: models/layers."""
