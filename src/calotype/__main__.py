"""`python -m calotype`: the command line."""

from calotype.cli import main

if __name__ == "__main__":
    main(prog_name="calotype")
