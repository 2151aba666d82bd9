"""The command line: each command, its options and its words. Nothing heavy is imported before a command runs."""
