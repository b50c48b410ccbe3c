"""Prepare COCO-Stuff (164k, 171 classes) for coco_stuff_sem_seg_{train,val}.

1. Download the images from http://images.cocodataset.org/zips/train2017.zip (18 GB) and
   http://images.cocodataset.org/zips/val2017.zip (0.8 GB), and the label maps from
   http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip
   (0.7 GB; see https://github.com/nightrome/cocostuff).
2. In the folder that datasets lie in (DETECTRON2_DATASETS, or ./datasets), unpack the images in
   coco/ and the label maps in coco/stuffthingmaps/.
3. Run this script. It converts the label maps: the released ids (0..181, eleven of them unused)
   become 0..170, 255 (unlabelled) stays.
"""

import sys

from lrformer.data.prepare import main

if __name__ == "__main__":
    sys.exit(main("coco_stuff_sem_seg", __doc__))
