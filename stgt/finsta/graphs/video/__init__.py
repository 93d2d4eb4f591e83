"""Scene graphs of videos: detectors, a tracker, and relations that follow from boxes."""
