"""Fewer bits for a trained network."""
