"""The test split."""
