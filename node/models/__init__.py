"""The model manager: registry of local models, validation, publishing."""
