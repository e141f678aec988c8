"""What a pipeline's calls may take of memory and devices: budgets, the plan of a call within one, and placement."""
