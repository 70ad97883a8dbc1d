"""Distillation methods, one a file; `netpress.distillation` says what a method defines."""
