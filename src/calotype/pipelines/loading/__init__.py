"""What loading a pipeline takes: which class a repository is for, its components, and code of others."""
