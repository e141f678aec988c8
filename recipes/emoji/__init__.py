"""The recipe of the text-to-image model that ships inside calotype: `python -m recipes.emoji`."""
