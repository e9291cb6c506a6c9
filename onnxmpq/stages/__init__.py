"""The stages of a compile, in the order of `onnxmpq.pipeline`: a value in, the next value out; and what several of them share."""
