"""Room: compression."""
