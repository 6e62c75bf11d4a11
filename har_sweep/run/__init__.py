"""One run in its process: the story is ``execute``."""
