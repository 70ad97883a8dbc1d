"""Pruning methods, one a file; `netpress.channels` says what a method defines."""
