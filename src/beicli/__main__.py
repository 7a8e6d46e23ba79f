"""`python -m beicli` does what `bei` does."""

from beicli.cli.app import main

if __name__ == "__main__":
    main()
