"""The networks: one folder each, with its config, its module and its key map."""
