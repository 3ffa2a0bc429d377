"""Other people's pipelines and loops, each in a module of its own that is imported by name."""
