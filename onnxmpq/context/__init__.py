"""Values that hold models, data and sessions, which the stages read."""
