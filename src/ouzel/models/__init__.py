"""The models: torch modules over catalogue rows. No ids, files, devices, optimisers or losses."""
