"""The command line: a parser, and one module a group of commands."""
