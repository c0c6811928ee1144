"""From maps to poses: decoder, pose NMS, engines behind one call, and `PoseDetector`."""
