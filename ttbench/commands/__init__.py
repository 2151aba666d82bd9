"""What each command does, behind the options of `ttbench.cli`; imported when a command runs."""
