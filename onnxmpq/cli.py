"""The entry point. It imports nothing at first, so that Ctrl-C ends in one line from the start."""


def main() -> None:
    """Run the command, which ends with an exit code."""
    try:
        from onnxmpq.endings import run_to_the_end

        run_to_the_end()
    except KeyboardInterrupt:
        import sys

        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
