"""``mrl demo``: fixed-size models, MRL and MRL-E trained on real images, and compared."""
