"""Celery workers: supervise, lock down, quantize, measure."""
