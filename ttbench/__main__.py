"""`python -m ttbench`: the command line without the console script."""

from ttbench.cli.app import main

if __name__ == "__main__":
    main()
