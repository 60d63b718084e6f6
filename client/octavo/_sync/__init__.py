# Made by scripts/unasync.py from octavo/_async: change it there.
"""The client, written once; `scripts/unasync.py` makes `octavo/_sync` from it."""
