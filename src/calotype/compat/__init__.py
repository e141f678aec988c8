"""Other ways to write a pipeline, run by the same engine."""
