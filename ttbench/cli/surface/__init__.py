"""Commands that the command line takes over from here: their options and help, and nothing heavy."""
