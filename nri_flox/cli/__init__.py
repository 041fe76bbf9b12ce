"""The commands: thin, over the same functions that the service uses."""
