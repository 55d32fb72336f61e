"""Room: tests of the live page in a real browser."""
