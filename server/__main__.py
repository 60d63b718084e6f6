"""`python -m server` is `octavo-server`."""

from server.cli import main

if __name__ == "__main__":
    main()
