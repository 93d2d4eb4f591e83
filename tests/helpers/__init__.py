"""Code that several test modules share: inputs, comparisons, small models and stand-ins."""
