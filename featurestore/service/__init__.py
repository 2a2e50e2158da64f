"""One cache over HTTP: catalogue, store files, features and predictions on demand, pages."""
