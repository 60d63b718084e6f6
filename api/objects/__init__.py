"""Models and datasets: storing, listing, deleting."""
