"""The stages of a compile, a file each, in the order of `onnxmpq.pipeline`: a value in, the next value out."""
