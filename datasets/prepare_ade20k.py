"""Prepare ADE20K (scene parsing benchmark, 150 classes) for ade20k_sem_seg_{train,val}.

1. Download ADEChallengeData2016.zip (about 1 GB) from
   http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip
   (the dataset's home is https://groups.csail.mit.edu/vision/datasets/ADE20K/).
2. Unpack it in the folder that datasets lie in (DETECTRON2_DATASETS, or ./datasets).
3. Run this script. It converts the label maps: 0 (other) becomes 255, 1..150 become 0..149.
"""

import sys

from lrformer.data.prepare import main

if __name__ == "__main__":
    sys.exit(main("ade20k_sem_seg", __doc__))
