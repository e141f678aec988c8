"""Sharing a pipeline or a pack of units: reviewed as somebody else would, described, and published on a hub.

offline     running code while the network is out of reach
trial       running a pipeline on small weights
review      every check, each with what was found
card        the page that a repository shows
publish     the repository on a hub
"""
