"""Distillation losses, one a file; `netpress.distill.run` says what a loss defines."""
