"""Backends that run the jobs of the graph, one a file."""
