"""`python -m recipes.emoji`: make the model from nothing. See `README.md` beside this file."""

from recipes.emoji.run import main

if __name__ == "__main__":
    main()
