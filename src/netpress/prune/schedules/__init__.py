"""Schedules of pruning, one a file; `netpress.prune.channels` says what a schedule defines."""
