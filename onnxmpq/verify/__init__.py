"""A written file read back, run, judged and timed, by code that did not write it."""
