"""How the models that ship with calotype were made, end to end. Not part of the installed package."""
