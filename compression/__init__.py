"""From a trained policy to a small one: quantisation, ONNX graphs, deployable artifacts."""
