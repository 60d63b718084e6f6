"""The sections of the page: each a function of the report that gives None when there is nothing to tell."""
