"""From the crops of a face in time to curves of movement, and from curves to events."""
