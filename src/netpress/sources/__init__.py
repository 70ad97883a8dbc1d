"""Data sources, one a file: each defines `read(folder, data) -> Source`.

`folder` is `data.root`, which exists; `data/none`, an empty folder, asks a source to download its files.
"""
