"""Downloads of what a job made."""
