"""Shards of a trace or a covariance on the nodes of a Ray. This process alone writes the catalog."""
