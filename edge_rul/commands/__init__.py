"""One module a command: HELP, its arguments, and what it calls. `cli` owns the list, errors and exit codes."""
