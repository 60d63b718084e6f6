"""The `octavo-server` command: starts the parts, embedded or one by one."""
