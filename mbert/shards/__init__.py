"""Bytes: the image codec, frame pairs, the tar writer, the streaming reader, verification."""
