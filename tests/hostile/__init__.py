"""Builds files that attack whoever loads them; what each does, if it works, is to make an empty marker directory."""
