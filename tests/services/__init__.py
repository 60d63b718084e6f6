"""Real servers for the tests: each a context manager that starts one on a free port and stops it at the end.

`tests/conftest.py` makes fixtures of them. `install.py` brings what PyPI extras cannot: an S3 server, Prometheus.
"""
