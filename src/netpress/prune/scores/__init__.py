"""Scores of channels, one a file; `netpress.prune.channels` says what a score defines."""
