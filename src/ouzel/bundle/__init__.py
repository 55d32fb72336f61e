"""The artefact: an immutable folder named by its digest, and the store that promotes it."""
