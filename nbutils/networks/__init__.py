"""Frozen networks: one code path for every size, from the miniature to the published ones."""
