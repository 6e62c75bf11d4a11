"""From a sweep's configs to finished runs: what is to do, who does it, and what the user sees of it."""
