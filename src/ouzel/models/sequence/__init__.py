"""Room: models/sequence."""
