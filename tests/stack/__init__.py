"""The servers of `stack/` keep what the other tests build on."""
