"""POST /v1/plan: what a job would do, before the work."""
