"""Leaf layers that networks share, the base of every network, and the attention backends."""
