"""Pipelines as graphs: units, inputs, branches, checks, plans, the memo and the training split. No array library."""
