"""The program `python -m src.export`: a trained model as a web page or an ONNX graph."""
