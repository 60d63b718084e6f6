"""Files for other runtimes, made from a reference graph."""
