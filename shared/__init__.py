"""The vocabulary and the ports that the API and the worker share; holds neither torch nor FastAPI."""
