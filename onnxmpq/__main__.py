"""`python -m onnxmpq`."""

from onnxmpq.cli import main

main()
