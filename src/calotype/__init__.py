"""calotype turns noise into pictures, video and sound through pipelines that are plain typed functions."""

__version__ = "0.1.0"
