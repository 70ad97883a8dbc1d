"""Distillation: a teacher takes part in the student's training."""
