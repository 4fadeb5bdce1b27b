"""API objects -> text a model reads: compact, paged, with marks around what others wrote. Pure."""
