"""STGT: video-language alignment with a spatio-temporal graph transformer, trained and evaluated end to end."""
