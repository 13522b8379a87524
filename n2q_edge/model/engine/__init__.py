"""ONNX files as TensorRT engines: building, describing and checking them. Running them is a runtime's job."""
