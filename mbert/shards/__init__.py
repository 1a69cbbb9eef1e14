"""Bytes: the image codec, one frame pair, the tar writer, the streaming reader, verification."""
