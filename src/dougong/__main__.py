"""`python -m dougong` is the command line."""

from dougong.cli import main

if __name__ == "__main__":
    main()
