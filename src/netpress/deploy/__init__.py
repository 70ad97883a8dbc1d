"""Models where they are used: how fast their files run, and folders of a model that stand alone."""
