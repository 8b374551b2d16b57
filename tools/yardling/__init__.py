"""The workshop of yardling, the built-in model: its data, its trainer, its exporter and its examination."""
