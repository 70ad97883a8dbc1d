"""Processes that make a variant's last seeds while its stage is at the first ones, where cores would be idle.

`netpress run` starts them. They make what the stage would make, and put it where the stage looks for finished seeds, no
place else: the variant's files, its metrics and dvc.lock are the stage's own.
"""

import os

#: Environment variable: where it is set, a stage's script is such a process.
AHEAD = "NETPRESS_AHEAD"


def is_ahead() -> bool:
    """Whether this process makes seeds for the stage of its variant, and is not that stage."""
    return AHEAD in os.environ
