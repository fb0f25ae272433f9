"""`python -m edged`: the same as the `edged` command."""

from edged.cli import run_and_exit

if __name__ == "__main__":
    run_and_exit()
