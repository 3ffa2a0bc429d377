"""The demonstration: the command line, the embedded digits, errors against evaluations."""
