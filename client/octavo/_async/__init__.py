"""The client, written once; `scripts/unasync.py` makes `octavo/_sync` from it."""
