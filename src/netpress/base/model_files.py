"""Names of the files in a model's folder, one `seed_<k>/` of its variant's; docs/artifacts.md says what they hold."""

SPEC, WEIGHTS, ONNX = "spec.json", "model.safetensors", "model.onnx"
HISTORY, PREDICTIONS, MISTAKES = "history.csv", "predictions.csv", "mistakes.png"
#: In the variant's folder: which seeds there are.
SEEDS = "seeds.json"
