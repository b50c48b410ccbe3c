"""Prepare COCO-Stuff 10K (171 classes) for coco_stuff_10k_sem_seg_{train,test}.

1. Download http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/cocostuff-10k-v1.1.zip
   (2 GB; see https://github.com/nightrome/cocostuff10k).
2. In the folder that datasets lie in (DETECTRON2_DATASETS, or ./datasets), unpack it in
   coco/coco_stuff_10k/, so that there are images/, annotations/ and imageLists/ in it.
3. Run this script. It copies the images of each split and converts the MATLAB files: the ids
   1..182, eleven of them unused, become 0..170, 0 (unlabelled) becomes 255.
"""

import sys

from lrformer.data.prepare_coco_stuff_10k import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
