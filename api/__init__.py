"""FastAPI front end; never imports torch."""
