"""Room: ranking."""
