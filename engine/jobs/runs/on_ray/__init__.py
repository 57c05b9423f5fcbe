"""Shards of traces and covariances on the nodes of a Ray (an extra)."""
