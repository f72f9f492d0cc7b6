"""Our programs beside ONNX Runtime and ncnn: same images, same emulator, same cycle model."""
