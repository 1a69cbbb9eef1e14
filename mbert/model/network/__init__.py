"""What is learned: encoder, Micro-Attention, motion head, classifier; weights in and out."""
