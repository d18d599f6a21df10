"""Fails unless the demo's training beat both its comparisons by 15 points of mAP."""

import json
import sys
from pathlib import Path

scores = json.loads(Path(sys.argv[1]).read_text())["scores"]
trained, untrained, histogram = (100 * scores[name]["mAP"] for name in ("trained", "untrained", "histogram"))
print(f"mAP: trained {trained:.1f}, untrained {untrained:.1f}, color histogram {histogram:.1f}")
if trained < max(untrained, histogram) + 15:
    sys.exit("the trained network must be at least 15 points of mAP above both others")
if histogram >= 50:
    sys.exit("color histograms must stay under 50 % mAP")
