"""A plugin's side of NRI, the Node Resource Interface of container runtimes.

Messages, a plugin's life, and what each runtime can do. Knows ttrpc and nothing of Flox.
"""
