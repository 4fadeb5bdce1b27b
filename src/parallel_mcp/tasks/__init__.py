"""What a run means to us: ids, task specs, prices, creating safely, progress, watching."""
