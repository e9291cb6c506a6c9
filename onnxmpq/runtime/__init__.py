"""ONNX Runtime: which provider, which session, what runs. Nothing else imports onnxruntime."""
