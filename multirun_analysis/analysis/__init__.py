"""From runs to findings; the story is ``analysis``."""
