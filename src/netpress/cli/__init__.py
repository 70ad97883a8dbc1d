"""The commands of `python -m netpress`: one file each, with `add_arguments` and `run`."""
