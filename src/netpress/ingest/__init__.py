"""Pictures to data/prepared."""
