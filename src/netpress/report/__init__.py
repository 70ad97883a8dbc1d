"""Tables and figures over all models: collect, compare, write."""
