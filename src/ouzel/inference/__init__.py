"""Runs a Bundle: graph sessions, and the pool of user states that is kept up to date by events."""
