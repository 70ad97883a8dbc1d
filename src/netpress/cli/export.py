"""Write a model into a folder that stands alone, ready to ship.

    python -m netpress export quantize/student_int8 shipped
    cd shipped && pip install numpy pillow onnxruntime && python predict.py PICTURE...

The folder holds model.onnx (as the model was made: fp32, int8, ...), model.safetensors (of models in fp32), model.json
(classes, size, mean, deviation), predict.py, and README.md, a model card. It is written only after its outputs have
been compared with the model's.
"""

import argparse
from pathlib import Path

from netpress.base.project import find_root
from netpress.cli._models import made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL_ID", help="such as distill/kd_strong or prune/main/round_2")
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder to write")
    parser.add_argument("--force", action="store_true", help="write over a model that was exported there")


def run(args: argparse.Namespace) -> None:
    """Export one model of the project around the current folder."""
    from netpress.deploy.bundle import export

    root = find_root()
    names = export(root, made(root, args.model), args.folder, args.force)
    print(f"wrote {args.model} to {args.folder}: {', '.join(names)}; its outputs are those of the model")
