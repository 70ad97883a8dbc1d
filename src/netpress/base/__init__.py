"""The ground that everything stands on; nothing here knows of networks."""
