"""The implementations of :mod:`mrl.protocol`, one package a framework, with the same file names in each."""
