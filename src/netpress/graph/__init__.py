"""What the sections of params.yaml say of one another."""
