"""Where adapters to other libraries will live, one module each; there are none yet."""
