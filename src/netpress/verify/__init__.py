"""Do the committed results follow from the committed code: by running it again, and by comparing what is written."""
