"""The commands, one module per topic: parse, one library call, one summary. Heavy imports stay inside the bodies."""
