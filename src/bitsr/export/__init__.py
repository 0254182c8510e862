"""Programs for other runtimes: ONNX with Q/DQ, any picture size; needs the extra `export`, but no torch."""
