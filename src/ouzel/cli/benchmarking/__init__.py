"""What `ouzel benchmark` measures on: the home that is served, and the peers beside it."""
