"""The program `python -m src.export`, which exports a trained model as a web page or in ONNX."""
