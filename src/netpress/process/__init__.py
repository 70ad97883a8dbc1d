"""One process and its surroundings; nothing that is computed depends on it."""
