"""Data sources, one a file: each defines `read(place, data, aside) -> Source`.

`place` is `data.root`, which exists; `data/none`, an empty folder, asks a source to download its files. `aside` is a
folder that a source may make to unpack an archive, and that is removed when the data are prepared.
"""
