"""Jobs: submitting, following, cancelling."""
