"""Scores of channels, one a file; `netpress.prune.common.channels` says what a score defines."""
