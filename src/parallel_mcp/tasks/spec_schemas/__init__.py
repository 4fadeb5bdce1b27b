"""JSON Schemas in task specs: from what callers write to what the API takes."""
