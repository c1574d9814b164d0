"""mrl as the libraries around it have it, one module an ecosystem: they name, store and hand over."""
