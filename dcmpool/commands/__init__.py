"""The commands: a module each, named as on the command line."""
