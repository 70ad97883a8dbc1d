"""Vocabulary and bytes; nothing here knows of networks."""
