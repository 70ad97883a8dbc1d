"""Schedules of pruning, one a file; `netpress.prune.common.channels` says what a schedule defines."""
